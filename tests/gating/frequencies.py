"""How a test tells whether draws have the probabilities that they claim."""

import math

import numpy as np


def assert_frequencies_match(chosen, probabilities):
    """Chernoff's bound: a true probability is refused in one of 10^6 sets of draws."""
    draws = len(chosen)
    frequency = chosen.mean(axis=0)
    assert (frequency[probabilities == 0.0] == 0.0).all()
    assert (frequency[probabilities == 1.0] == 1.0).all()
    sampled = (probabilities > 0.0) & (probabilities < 1.0)
    p, f = probabilities[sampled], frequency[sampled]
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.nan_to_num(f * np.log(f / p)) + np.nan_to_num((1 - f) * np.log((1 - f) / (1 - p)))
    assert draws * divergence.max(initial=0.0) < math.log(2 * len(probabilities) * 1e6)
