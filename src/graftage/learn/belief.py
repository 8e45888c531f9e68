"""What is believed of the entrants of a race, and what another look at one of them would be worth (P).

The error rate of an entrant is taken to be

    θ = μ + foreseen + a_network + w_way + r

with μ unknown, a the part of its network (alike for all ways of using it), w the part of the way it is used (alike for
all networks, none for a network as it was pretrained) and r the rest, independent and normal. What is measured on m
pictures is `SCALE` θ, moved by as much as fewer pictures make every entrant worse, with the noise of m pictures. Then
all θ together have a normal posterior, those never measured included (best linear unbiased prediction: Robinson 1991):
a larger input that helped the small network is expected to help the large one, whose pictures cost more.

The pictures are the same for all, and what is hard about one is hard for all, so the noise that counts is that of the
scores less each picture's mean over the entrants.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from graftage.learn.entries import Entrant
from graftage.learn.gram import Floats

# Standard deviations, in error rate. These and the next were chosen, as round numbers in the middle of those that did
# alike, with 100 pictures of five sets from which no figure is taken: sign-digits, hymenoptera, CIFAR-10, Fashion-MNIST
# and pictograms by category (`bench/design_sets.py`, `bench/choose.py`).
NETWORK = 0.05  # of a network's part
WAY = 0.03  # of a way's
REST = 0.03  # of what is left
MISFIT = 0.01  # between what is measured and what a head learnt from all pictures makes of it
SCALE = 0.6  # by how much of a difference in error rate measured scores differ: few pictures and half a Brier score
NOISE = 0.04, 200  # variance, in error rate, of one picture's score less its mean over entrants; pictures it counts as


@dataclass(frozen=True, eq=False)
class Belief:
    """A normal distribution over the error rates of E entrants, given what was measured.

    Attributes:
        mean: float64 (E,); level is that of the last round.
        covariance: float64 (E, E).
        noise: variance of one picture's score.
    """

    mean: Floats
    covariance: Floats
    noise: float

    @property
    def leader(self) -> int:
        """Who is expected to be the best."""
        return int(self.mean.argmin())

    def better(self, j: int, i: int) -> float:
        """Probability that entrant j is better than entrant i."""
        gap, C = self.mean[i] - self.mean[j], self.covariance
        return float(ndtr(gap / np.sqrt(max(C[i, i] + C[j, j] - 2 * C[i, j], 1e-12))))

    def best(self, draws: int, rng: np.random.Generator) -> Floats:
        """(E,) probability of each of being the best, from that many draws."""
        found = rng.multivariate_normal(self.mean, self.covariance, draws, check_valid="ignore", method="eigh")
        return np.bincount(found.argmin(axis=1), minlength=len(self.mean)) / draws

    def worth(self, j: int, before: int, after: int) -> float:
        """By how much the best is expected to get better if entrant j is measured on more pictures.

        The knowledge gradient between it and its closest rival (Frazier, Powell and Dayanik 2009).

        Args:
            j: the entrant.
            before, after: pictures that it has been measured on, 0 if it never was, and would be.
        """
        others = np.delete(np.arange(len(self.mean)), j)
        if not len(others):
            return 1.0
        rival = int(others[self.mean[others].argmin()])
        own = self.covariance[j, j]
        news = self._news(before, after)
        step = abs(own - self.covariance[j, rival]) / np.sqrt(own + news)
        z = -abs(self.mean[j] - self.mean[rival]) / max(step, 1e-12)
        return float(step * (z * ndtr(z) + np.exp(-z * z / 2) / np.sqrt(2 * np.pi)))

    def _news(self, before: int, after: int) -> float:
        """Variance of a measurement that, added to that of `before` pictures, tells what `after` of them do."""
        then = self.noise / after + MISFIT**2
        if not before:
            return then
        return 1 / max(1 / then - 1 / (self.noise / before + MISFIT**2), 1e-9)


def believe(entrants: Sequence[Entrant], scores: Sequence[Sequence[Floats]], counts: Sequence[int]) -> Belief:
    """The posterior.

    Args:
        entrants: E of them.
        scores: of each, by round from the first, the scores (m,) of the pictures of that round; none of one that was
            never measured.
        counts: pictures of each round that count: copies and others of one group as one.
    """
    foreseen, K = np.array([e.foreseen for e in entrants]), _prior(entrants)
    if not any(map(len, scores)):
        return Belief(foreseen, K, NOISE[0])
    scores = [[one / SCALE for one in own] for own in scores]
    seen = np.array([j for j, own in enumerate(scores) if len(own)])
    last = {j: len(scores[j]) - 1 for j in seen.tolist()}
    noise, shift = _noise(scores), _shifts(scores)
    observed = np.array([scores[j][i].mean() + shift[i] for j, i in last.items()])
    V = np.diag([noise / counts[i] + MISFIT**2 for i in last.values()])
    inverse = np.linalg.inv(K[np.ix_(seen, seen)] + V)
    weight = inverse.sum(axis=0) / inverse.sum()
    level = weight @ (observed - foreseen[seen])
    gain = K[:, seen] @ inverse
    missed = 1 - gain.sum(axis=1)  # how much of the level's own uncertainty is left in each
    covariance = K - gain @ K[seen] + np.outer(missed, missed) / inverse.sum()
    mean = foreseen + level + gain @ (observed - foreseen[seen] - level)
    return Belief(mean, (covariance + covariance.T) / 2, noise)


def _prior(entrants: Sequence[Entrant]) -> Floats:
    """(E, E) covariance before anything is measured."""
    networks, ways = (np.array([getattr(e, name) for e in entrants]) for name in ("network", "way"))
    same = (networks[:, None] == networks) * NETWORK**2
    alike = (ways[:, None] == ways) * (ways != "") * WAY**2
    return np.asarray(same + alike + np.eye(len(entrants)) * REST**2, dtype=np.float64)


def _shifts(scores: Sequence[Sequence[Floats]]) -> Floats:
    """(rounds,) what is added to a mean of each round to bring it to the level of the last one."""
    rounds = max(map(len, scores))
    shifts = np.zeros(rounds)
    for i in reversed(range(rounds - 1)):
        steps = [own[i + 1].mean() - own[i].mean() for own in scores if len(own) > i + 1]
        shifts[i] = shifts[i + 1] + np.mean(steps)
    return shifts


def _noise(scores: Sequence[Sequence[Floats]]) -> float:
    """Variance of one picture's score less its mean over the entrants, what is usual counted in."""
    usual, weight = NOISE
    total = usual * weight
    for i in range(max(map(len, scores))):
        S = np.array([own[i] for own in scores if len(own) > i])
        if len(S) > 1:
            total += float(np.square(S - S.mean(axis=0)).sum()) * len(S) / (len(S) - 1)
            weight += S.size
    return total / weight
