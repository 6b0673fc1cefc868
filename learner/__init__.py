"""One writer: what a gate learns. See `learner.core` for the learner, `learner.rules` for the rules."""
