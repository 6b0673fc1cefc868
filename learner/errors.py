"""What can go wrong in the learner.

    LearnerError
    ├── RosterError            the roster file is missing or malformed
    ├── StaleViewError         a metagraph view older than the one in use
    ├── UnknownUidError        a reward names a uid that the network does not have
    ├── RepeatedUidError       a reward names a uid twice
    ├── DecisionPendingError   a decision is still on its way from a live replica: try again
    ├── ConfigMismatchError    a learner with another configuration is running
    └── EncoderMismatchError   embeddings of another encoder were sent

All of them pickle, since they cross from the learner's process to the replicas.
"""

from __future__ import annotations


class LearnerError(Exception):
    """Base of everything that the learner raises on purpose."""


class RosterError(LearnerError):
    """The roster file is missing or malformed; the message names the file, the entry and the field."""


class StaleViewError(LearnerError):
    """A metagraph view is older than the one in use."""


class UnknownUidError(LearnerError):
    """A reward names a uid that the network does not have."""


class RepeatedUidError(LearnerError):
    """A reward names a uid twice."""


class DecisionPendingError(LearnerError):
    """A decision is still on its way from a live replica; the same request may be sent again."""


class ConfigMismatchError(LearnerError):
    """A learner with another configuration is running under this name."""


class EncoderMismatchError(LearnerError):
    """Embeddings of another encoder than the learner's were sent."""
