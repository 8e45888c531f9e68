"""Power laws through error rates: how much is still wrong after so many pictures, for many resamples at once.

    error(n) = α + η nˠ ,   0 ≤ α ≤ least error,  η ≥ 0,  −1.2 ≤ γ ≤ −0.05

Three families: "pow2" has α = 0, "half" has γ = −1/2, "pow3" has neither (Hestness et al. 2017; Hoiem et al. 2021).
A normal prior of mean −0.5 and standard deviation 0.25 on γ holds where few points would leave it anywhere.

For a given γ the best α and η are those of a weighted line through (nˠ, error) within its bounds, in closed form; γ is
searched on a grid that is made finer around the best, for all resamples together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Family = Literal["pow2", "pow3", "half"]

FAMILIES: tuple[Family, ...] = ("pow2", "pow3", "half")
GAMMA_RANGE = (-1.2, -0.05)
GAMMA_MEAN, GAMMA_SD = -0.5, 0.25

_MISFIT = 0.002  # a power law is only a law of thumb: what it is allowed to miss a size by, besides the noise
_COARSE, _FINE, _ROUNDS = 24, 9, 6  # points of the first grid and of each finer one; the last step is about 1e-5


@dataclass(frozen=True, eq=False)
class Laws:
    """B power laws.

    Attributes:
        alpha: (B,) error rate that no number of pictures removes, 0 to 1.
        eta: (B,) not negative.
        gamma: (B,) negative.
    """

    alpha: Floats
    eta: Floats
    gamma: Floats

    def at(self, pictures: Floats) -> Floats:
        """Error rates (B, S) after so many pictures (S,), 0 to 1."""
        powers = np.asarray(pictures, dtype=np.float64) ** self.gamma[:, None]
        return np.clip(self.alpha[:, None] + self.eta[:, None] * powers, 0.0, 1.0)

    def needed(self, error: float | Floats) -> Floats:
        """Pictures (B,) after which the error rate is `error`, one or (B,); infinite where it is never reached."""
        left = error - self.alpha
        reached = (left > 0) & (self.eta > 0)
        with np.errstate(over="ignore"):
            pictures = np.exp(np.log(np.where(reached, left / np.where(reached, self.eta, 1.0), 1.0)) / self.gamma)
        return np.where(reached, pictures, np.where(left >= 0, np.where(self.eta > 0, np.inf, 0.0), np.inf))

    def take(self, rows: NDArray[np.int64]) -> "Laws":
        """The laws at these places."""
        return Laws(self.alpha[rows], self.eta[rows], self.gamma[rows])


def fit(sizes: NDArray[np.int64], errors: Floats, sd: Floats, *, family: Family, prior: Floats | None = None) -> Laws:
    """The most probable law of a family for each of B curves.

    Args:
        sizes: (J,) pictures learnt from, rising.
        errors: (B, J) error rates.
        sd: (J,) standard deviation of an error rate, positive: how closely the law must pass it by.
        family: which.
        prior: (B,) mean of the prior on γ; `GAMMA_MEAN` if not given. Drawing it anew for each resample makes the laws
            a sample of what is probable, not only of what is most probable (randomised maximum a posteriori).
    """
    assert errors.shape[1] == len(sizes) == len(sd), f"{errors.shape} errors, {sizes.shape} sizes, {sd.shape} sd"
    assert (sd > 0).all(), sd
    mean = np.full(len(errors), GAMMA_MEAN) if prior is None else prior
    scaled = sizes / sizes[-1]  # 1 at the last size: η is then the part of its error that more pictures remove
    gamma = np.full((len(errors), 1), -0.5)
    if family != "half":
        low, high = GAMMA_RANGE
        step = (high - low) / (_COARSE - 1)
        grid = np.broadcast_to(np.linspace(low, high, _COARSE), (len(errors), _COARSE))
        for _ in range(_ROUNDS):
            gamma = _best(grid, scaled, errors, sd, mean, family)
            grid = np.clip(gamma + np.linspace(-step, step, _FINE), low, high)
            step *= 2 / (_FINE - 1)
        gamma = _best(grid, scaled, errors, sd, mean, family)
    alpha, eta, _ = _line(gamma, scaled, errors, sd, family)
    return Laws(alpha[:, 0], eta[:, 0] * float(sizes[-1]) ** -gamma[:, 0], gamma[:, 0])


def _best(grid: Floats, scaled: Floats, errors: Floats, sd: Floats, mean: Floats, family: Family) -> Floats:
    """Of a grid (B, G) of γ the one of least loss, (B, 1)."""
    _, _, loss = _line(grid, scaled, errors, sd, family)
    loss = loss + np.square((grid - mean[:, None]) / GAMMA_SD)
    return np.take_along_axis(grid, loss.argmin(axis=1)[:, None], axis=1)


def _line(gamma: Floats, scaled: Floats, errors: Floats, sd: Floats, family: Family) -> tuple[Floats, Floats, Floats]:
    """Best α, η and their weighted squared residuals, each (B, G), for γ (B, G)."""
    w = 1.0 / np.square(sd)
    z = scaled ** gamma[..., None]  # (B, G, J)
    e = errors[:, None, :]
    wz = w * z
    s0, s1, s2 = w.sum(), wz.sum(axis=-1), (wz * z).sum(axis=-1)
    t0, t1 = (w * e).sum(axis=-1), (wz * e).sum(axis=-1)
    most = np.maximum(errors.min(axis=1), 0.0)[:, None]
    if family == "pow2":
        alpha = np.zeros_like(gamma)
    else:
        spread = np.maximum(s0 * s2 - s1**2, 1e-12 * s0 * s2)
        alpha = np.clip((s2 * t0 - s1 * t1) / spread, 0.0, most)
    eta = (t1 - alpha * s1) / s2
    if family != "pow2":  # a curve that rises with more pictures: the flat line
        alpha = np.where(eta < 0, np.clip(t0 / s0, 0.0, most), alpha)
    eta = np.maximum(np.where(eta < 0, 0.0, eta), 0.0)
    residual = e - alpha[..., None] - eta[..., None] * z
    return alpha, eta, (w * residual**2).sum(axis=-1)


def weights(sizes: NDArray[np.int64], errors: Floats, drawn: Floats, sd: Floats, prior: Floats) -> dict[Family, float]:
    """How far each family is to be believed, summing to 1: by what it foretells of the last two sizes.

    Each family is fitted to the B resamples of all sizes but the last two; its score is the mean over the resamples of
    the probability density that it gives to the errors there, as measured.

    Args:
        sizes: (J,) with J ≥ 4.
        errors: (J,) measured.
        drawn: (B, J) resampled.
        sd: (J,).
        prior: (B,) means of the prior on γ.
    """
    scores = []
    for family in FAMILIES:
        foretold = fit(sizes[:-2], drawn[:, :-2], sd[:-2], family=family, prior=prior).at(sizes[-2:].astype(np.float64))
        logs = -0.5 * np.square((errors[-2:] - foretold) / sd[-2:]).sum(axis=1)
        highest = logs.max()
        scores.append(highest + np.log(np.exp(logs - highest).mean()))
    raised = np.exp(np.array(scores) - max(scores))
    return {family: float(share) for family, share in zip(FAMILIES, raised / raised.sum(), strict=True)}


def spread(drawn: Floats) -> Floats:
    """(J,) what a law may miss each size by: noise of that size alone, without what all sizes have in common.

    Which pictures there happen to be moves the whole curve up or down; that part is in the draws, each of which gets
    its own law, and must not loosen the hold of the points on it.
    """
    covariance = np.atleast_2d(np.cov(drawn.T))
    own = np.diag(covariance).copy()
    if len(own) > 1:
        shared = (covariance.sum() - own.sum()) / (len(own) * (len(own) - 1))
        own = np.maximum(own - max(shared, 0.0), 0.1 * own)
    return np.sqrt(own + _MISFIT**2)


def mixed(
    sizes: NDArray[np.int64], drawn: Floats, sd: Floats, prior: Floats, believed: Mapping[Family, float],
    rng: np.random.Generator,
) -> Laws:  # fmt: skip
    """A law for every draw, of a family drawn by its share.

    Args:
        sizes: (J,).
        drawn: (B, J) error rates.
        sd: (J,), as in `fit`.
        prior: (B,) means of the prior on γ.
        believed: share of each family.
        rng: of the families.
    """
    chosen = rng.choice(len(FAMILIES), size=len(drawn), p=[believed[family] for family in FAMILIES])
    alpha, eta, gamma = np.empty(len(drawn)), np.empty(len(drawn)), np.empty(len(drawn))
    for i, family in enumerate(FAMILIES):
        if len(rows := np.flatnonzero(chosen == i)):
            laws = fit(sizes, drawn[rows], sd, family=family, prior=prior[rows])
            alpha[rows], eta[rows], gamma[rows] = laws.alpha, laws.eta, laws.gamma
    return Laws(alpha, eta, gamma)
