"""How far each author's reports agree with what was expected of them, as evidence that fades with newer reports.

With x what was expected of a reward and y what was reported, an event's contribution is c = sum over its uids of
(x - mean x)(y - mean y), both means the author's own: a harsh judge, or one of another scale, agrees as well as any.
The agreement's *score* is sum c / sqrt(sum c^2), about normal with deviation 1 for an author whose reports have
nothing to do with what was expected (a self-normalised sum, whose tails are no heavier: de la Pena, Lai and Shao
2009), near +sqrt(events) for one who agrees in all of them, near -sqrt(events) for one who reports the contrary.
Taking an event as one contribution allows for a prompt that is hard for all of its uids.

Long before an author contradicts beyond chance, it can be said to be unlike the others. If an honest author's c has
mean d and deviation 1, and a liar's mean -d, the *log-likelihood ratio* of the two is 2 d sum c, which is about
2 r score sqrt(events), with r = score of the others / sqrt(events of the others) in place of d (a little less than d,
and so the safe side). An honest author's rises by 2 r^2 an event, a liar's falls by as much, and that of rewards by
chance goes nowhere. It ever falls below -A for an honest author with a probability of about e^-A at most, however
often one looks (Ville 1939; Wald 1945), and is 0 where the others do not agree themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

_COLUMNS = ("events", "n", "x", "y", "xx", "xy", "yy", "score", "variance")
_TYPICAL = 20.0
"""An author's own means count for as much as the others' do after so many rewards."""
_LEAST = 50.0
"""With fewer rewards of the others than this, nobody knows how far off a reward may be."""


@dataclass(frozen=True, slots=True)
class Reports:
    """Rewards with what was expected of them, those of all events end to end.

    Attributes:
        author: number of each reward's author.
        event: number of its event.
        expected: NaN where nobody knows.
        reward: what was reported.
    """

    author: Int[np.ndarray, " k"]
    event: Int[np.ndarray, " k"]
    expected: Float[np.ndarray, " k"]
    reward: Float[np.ndarray, " k"]

    def known(self) -> Reports:
        """Those of which something was expected."""
        known = np.isfinite(self.expected)
        return Reports(self.author[known], self.event[known], self.expected[known], self.reward[known])


class Agreement:
    """Sums of each author, by number. What an author reported fades with its own later events only.

    Args:
        memory_events: after so many later events of its author, a report counts 1/e.
    """

    def __init__(self, memory_events: float) -> None:
        self._kept = np.exp(-1.0 / memory_events)
        self._sums = np.zeros((0, len(_COLUMNS)))

    def resize(self, authors: int) -> None:
        """Make room for that many authors."""
        self._sums = np.concatenate([self._sums, np.zeros((authors - len(self._sums), len(_COLUMNS)))])

    def forget(self, author: int) -> None:
        """All that is known of an author."""
        self._sums[author] = 0.0

    def add(self, reports: Reports) -> None:
        """Take in what was reported."""
        reports, count = reports.known(), len(self._sums)
        if not len(reports.author):
            return
        sums, x, y = self._sums, reports.expected, reports.reward
        event, first = np.unique(reports.event, return_index=True)
        its_author = reports.author[first]
        events = np.bincount(its_author, minlength=count)
        kept = self._kept**events
        moments = (np.ones_like(x), x, y, x * x, x * y, y * y)
        for column, moment in enumerate(moments, 1):
            sums[:, column] = sums[:, column] * kept + np.bincount(reports.author, moment, minlength=count)
        sums[:, 0] = sums[:, 0] * kept + events
        n = np.maximum(sums[:, 1], 1e-12)
        mean_x, mean_y = (sums[:, 2] / n)[reports.author], (sums[:, 3] / n)[reports.author]
        place = np.searchsorted(event, reports.event)
        contribution = np.bincount(place, (x - mean_x) * (y - mean_y), minlength=len(event))
        sums[:, 7] = sums[:, 7] * kept + np.bincount(its_author, contribution, minlength=count)
        sums[:, 8] = sums[:, 8] * kept**2 + np.bincount(its_author, contribution**2, minlength=count)

    def events(self) -> Float[np.ndarray, " author"]:
        """How many events there is evidence of, faded ones for what is left of them."""
        return self._sums[:, 0]

    def scores(self) -> Float[np.ndarray, " author"]:
        """See the module's docstring; 0 without evidence."""
        return _score(self._sums[:, 7], self._sums[:, 8])

    def scores_of_others(self, counts: Bool[np.ndarray, " author"]) -> Float[np.ndarray, " author"]:
        """For each author the score of the others together, of those that count: whether there is a consensus."""
        score, variance = self._sums[:, 7] * counts, self._sums[:, 8] * counts
        return _score(score.sum() - score, np.maximum(variance.sum() - variance, 0.0))

    def log_likelihood_ratios(self, counts: Bool[np.ndarray, " author"]) -> Float[np.ndarray, " author"]:
        """For each author how much likelier it agrees as the others do, of those that count, than contradicts as much.

        See the module's docstring; 0 without evidence, or where the others do not agree with what was expected.
        """
        events = self._sums[:, 0]
        counted = events * counts
        others = np.maximum(counted.sum() - counted, 1.0)
        # Chance alone makes a score of about one.
        rate = np.clip((self.scores_of_others(counts) - 1.0) / np.sqrt(others), 0.0, 1.0)
        ratios: Float[np.ndarray, " author"] = 2.0 * rate * self.scores() * np.sqrt(events)
        return ratios

    def correlations(self) -> Float[np.ndarray, " author"]:
        """Of what was expected and what was reported, by author; NaN where either was always the same."""
        _, n, x, y, xx, xy, yy, _, _ = self._sums.T
        n = np.maximum(n, 1e-12)
        spread = np.maximum(xx - x * x / n, 0.0) * np.maximum(yy - y * y / n, 0.0)
        return np.where(spread > 1e-18, (xy - x * y / n) / np.sqrt(np.maximum(spread, 1e-18)), np.nan)

    def clipped(self, reports: Reports, counts: Bool[np.ndarray, " author"], clip: float) -> Float[np.ndarray, " k"]:
        """Huber's weights: 1, and less for a reward that is more than `clip` deviations from what was expected.

        The deviation and the line that turns what was expected into rewards are those of the other authors; the
        level is the author's own as far as it is known. A number beyond the last author is one who is not known.
        """
        sums = np.vstack([self._sums, np.zeros(len(_COLUMNS))])
        counted = sums * np.append(counts, False)[:, None]
        others = counted.sum(axis=0) - counted
        n = np.maximum(others[:, 1], 1e-12)
        spread_x = np.maximum(others[:, 4] - others[:, 2] ** 2 / n, 0.0)
        spread_y = np.maximum(others[:, 6] - others[:, 3] ** 2 / n, 0.0)
        both = others[:, 5] - others[:, 2] * others[:, 3] / n
        slope = np.where(spread_x > 1e-12, both / np.maximum(spread_x, 1e-12), 0.0)
        deviation = np.sqrt(np.maximum(spread_y - slope * both, 0.0) / n)
        own_n = sums[:, 1] + _TYPICAL
        mean_x = (sums[:, 2] + _TYPICAL * others[:, 2] / n) / own_n
        mean_y = (sums[:, 3] + _TYPICAL * others[:, 3] / n) / own_n
        author = reports.author
        off = np.abs(reports.reward - mean_y[author] - slope[author] * (reports.expected - mean_x[author]))
        weight = np.minimum(1.0, clip * deviation[author] / np.maximum(off, 1e-12))
        return np.where(np.isfinite(off) & (others[author, 1] >= _LEAST) & (deviation[author] > 0), weight, 1.0)


def _score(total: Float[np.ndarray, " author"], variance: Float[np.ndarray, " author"]) -> Float[np.ndarray, " author"]:
    return np.where(variance > 1e-18, total / np.sqrt(np.maximum(variance, 1e-18)), 0.0)
