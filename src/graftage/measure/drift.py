"""New pictures without labels: how right is the model on them, how strange are they, which are most worth labelling?

Two estimates of the accuracy, which hold where calibration does: where the probabilities of the new pictures mean what
those of the held-out ones meant. A shift that makes the model wrong and sure breaks both.

- The mean calibrated confidence. Its interval joins the spread of right and wrong answers if every confidence is the
  truth, Σ p(1-p) / n², with the uncertainty of the model's own held-out accuracy, to which it was calibrated.
- Average thresholded confidence (ATC; Garg et al. 2022): the share of new pictures whose entropy stays below what the
  held-out accuracy's share of held-out pictures stayed below; by the generalised entropy of `unlike`, whose held-out
  values the model file has.

Everything is collected picture by picture in memory that does not grow: sums, and the pictures most worth labelling so
far, with directions of their features, so that near-copies are not all proposed.
"""

import base64
import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graftage.measure.decide import Decisions, upper_bound
from graftage.measure.interval import LEVEL, NOT_MEASURABLE, Estimate
from graftage.measure.unlike import gen

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

POOL: Final = 5  # times as many candidates are kept as pictures are asked for
_WIDTH: Final = 64  # numbers by which candidates are told apart where the model file has no subspace of its own
_Z: Final = 1.959963984540054  # of LEVEL, two-sided


@dataclass(frozen=True, order=True)
class Candidate:
    """A picture that may be worth a label.

    Attributes:
        worth: 0 to 1, higher is more: 1 less the margin between both first classes, or 1 less the p-value.
        late: less the number of the picture, so that of equals the first is kept.
        name, id, label: as in its row.
        probability: of the label.
        direction: of its features, float16 numbers of length 1 as base64.
    """

    worth: float
    late: int
    name: str = field(compare=False)
    id: str = field(compare=False)
    label: str = field(compare=False)
    probability: float = field(compare=False)
    direction: str = field(compare=False)

    def vector(self) -> Singles:
        """The direction as numbers."""
        return np.frombuffer(base64.b64decode(self.direction), np.float16).astype(np.float32)


@dataclass(frozen=True)
class Known:
    """What is known of the model beforehand.

    Attributes:
        classes: their names.
        shares: of each class among the training pictures; empty where not known.
        accuracy: held-out, with its interval; None where not known.
        decisions: of the model file.
    """

    classes: tuple[str, ...]
    shares: tuple[float, ...]
    accuracy: Estimate | None
    decisions: Decisions


@dataclass(frozen=True)
class Proposed:
    """A picture most worth labelling, and why: "unlike" those trained on, or "unsure"."""

    path: str
    id: str
    label: str
    probability: float
    why: str


@dataclass(frozen=True)
class Drift:
    """What was found.

    Attributes:
        pictures: that were answered for.
        accuracy: by the mean calibrated confidence.
        thresholded: by average thresholded confidence; not measurable without a detector or a held-out accuracy.
        held_out: the model's own accuracy, to compare with; None where not known.
        unlike: share that is flagged, with Clopper and Pearson's exact interval; not measurable without a detector.
        false_alarm: share flagged of pictures like those trained on.
        shares: (class, share among the answers, share among the training pictures or nan), in the model's order.
        distance: total variation between both shares, 0 to 1; nan where the latter are not known.
        worth: pictures most worth labelling, most worth first.
    """

    pictures: int
    accuracy: Estimate
    thresholded: Estimate
    held_out: Estimate | None
    unlike: Estimate
    false_alarm: float
    shares: tuple[tuple[str, float, float], ...]
    distance: float
    worth: tuple[Proposed, ...]


class Watch:
    """Looks at answers one by one.

    Args:
        known: the model.
        most: pictures to propose for labelling.
    """

    def __init__(self, known: Known, *, most: int) -> None:
        self._known, self._most = known, most
        self._entropy = _entropy_threshold(known)
        self._basis = _basis(known.decisions)
        k = len(known.classes)
        self._n, self._flagged, self._judged, self._sure = 0, 0, 0, 0
        self._confidence, self._spread = 0.0, 0.0
        self._counts = np.zeros(k, dtype=np.int64)
        self._unsure: list[Candidate] = []
        self._odd: list[Candidate] = []

    def add(self, name: str, p: Sequence[float], X: Singles, *, id: str = "", unlike_p: float | None = None) -> None:
        """Takes one answer in.

        Args:
            name: of the picture; id: likewise.
            p: calibrated probabilities (K,).
            X: features (D,).
            unlike_p: as in its row, None where it was not judged.
        """
        row = np.asarray(p, dtype=np.float64)
        second, first = (int(k) for k in np.argsort(row, kind="stable")[-2:])
        first = int(row.argmax())  # of equal ones the first class, as in the rows
        top = float(row[first])
        number, self._n = self._n, self._n + 1
        self._confidence += top
        self._spread += top * (1 - top)
        self._counts[first] += 1
        if self._entropy is not None:
            self._sure += bool(gen(row[None])[0] <= self._entropy)
        margin = top - float(row[second]) if second != first else 0.0
        own = (name, id, self._known.classes[first], top)
        self._keep(self._unsure, 1 - margin, number, own, X)
        if unlike_p is not None:
            self._judged += 1
            if self._known.decisions.unlike is not None and unlike_p <= self._known.decisions.unlike.false_alarm:
                self._flagged += 1
                self._keep(self._odd, 1 - unlike_p, number, own, X)

    def _keep(
        self, heap: list[Candidate], worth: float, number: int, own: tuple[str, str, str, float], X: Singles
    ) -> None:
        room = POOL * self._most
        if not room or (len(heap) == room and (worth, -number) <= (heap[0].worth, heap[0].late)):
            return
        held = Candidate(worth, -number, *own, self._direction(X))
        (heapq.heappush if len(heap) < room else heapq.heapreplace)(heap, held)

    def _direction(self, X: Singles) -> str:
        turned = np.einsum("rd,d->r", self._basis, X) if self._basis is not None else _folded(X)
        turned = turned / max(float(np.linalg.norm(turned)), 1e-12)
        return base64.b64encode(turned.astype(np.float16).tobytes()).decode("ascii")

    def result(self) -> Drift:
        """What was found so far."""
        known, n, k = self._known, self._n, len(self._known.classes)
        answered = self._counts / max(n, 1)
        trained = np.array(known.shares or (math.nan,) * k)
        unlike = known.decisions.unlike
        return Drift(
            pictures=n,
            accuracy=self._mean_confidence(),
            thresholded=self._thresholded(),
            held_out=known.accuracy,
            unlike=exact(self._flagged, self._judged),
            false_alarm=math.nan if unlike is None else unlike.false_alarm,
            shares=tuple(zip(known.classes, answered.tolist(), trained.tolist(), strict=True)),
            distance=float(np.abs(answered - trained).sum() / 2) if n else math.nan,
            worth=self._proposed(),
        )

    def _mean_confidence(self) -> Estimate:
        if not self._n:
            return Estimate(math.nan, 0.0, 1.0, NOT_MEASURABLE)
        return self._estimate(self._confidence / self._n, self._spread / self._n**2, "mean calibrated confidence")

    def _thresholded(self) -> Estimate:
        if self._entropy is None or not self._n:
            return Estimate(math.nan, 0.0, 1.0, NOT_MEASURABLE)
        share = self._sure / self._n
        return self._estimate(share, share * (1 - share) / self._n, "average thresholded confidence")

    def _estimate(self, value: float, variance: float, method: str) -> Estimate:
        own = self._known.accuracy
        known = 0.0 if own is None else (own.high - own.low) / (2 * _Z)
        half = _Z * math.sqrt(variance + known**2)
        return Estimate(value, max(value - half, 0.0), min(value + half, 1.0), method, LEVEL)

    def _proposed(self) -> tuple[Proposed, ...]:
        """Half of them strange, the other half unsure, as far as there are so many; none like one before it."""
        odd = _spread_out(self._odd, (self._most + 1) // 2)
        taken = {each.late for each in odd}
        unsure = [each for each in self._unsure if each.late not in taken]
        chosen = [(each, "unlike") for each in odd]
        chosen += [(each, "unsure") for each in _spread_out(unsure, self._most - len(odd))]
        return tuple(Proposed(each.name, each.id, each.label, each.probability, why) for each, why in chosen)

    def to_json(self) -> dict[str, Any]:
        """All that a run that goes on must know."""
        return {
            "sums": [self._n, self._flagged, self._judged, self._sure, self._confidence, self._spread],
            "counts": self._counts.tolist(),
            "unsure": [asdict(each) for each in self._unsure],
            "odd": [asdict(each) for each in self._odd],
        }

    def go_on(self, values: Mapping[str, Any]) -> None:
        """Takes up what `to_json` gave."""
        self._n, self._flagged, self._judged, self._sure, self._confidence, self._spread = values["sums"]
        self._counts = np.array(values["counts"], dtype=np.int64)
        self._unsure = [Candidate(**each) for each in values["unsure"]]
        self._odd = [Candidate(**each) for each in values["odd"]]


def _entropy_threshold(known: Known) -> float | None:
    """The generalised entropy below which lies the held-out accuracy's share of the held-out pictures."""
    if known.accuracy is None or known.decisions.unlike is None or not known.accuracy.measurable:
        return None
    return float(np.quantile(known.decisions.unlike.scale.reference[3].astype(np.float64), known.accuracy.value))


def _basis(decisions: Decisions) -> Singles | None:
    return None if decisions.unlike is None else decisions.unlike.geometry.basis


def _folded(X: Singles) -> Singles:
    """Sums of every `_WIDTH`-th feature under random signs: as many numbers that keep angles about as they are."""
    signs = np.random.default_rng(64).choice(np.array([-1.0, 1.0], np.float32), size=len(X))
    padded = np.zeros(-(-len(X) // _WIDTH) * _WIDTH, np.float32)
    padded[: len(X)] = X * signs
    return np.asarray(padded.reshape(-1, _WIDTH).sum(axis=0))


def _spread_out(pool: Sequence[Candidate], count: int) -> list[Candidate]:
    """The one most worth first; then always that whose worth times distance from those chosen is largest."""
    left = sorted(pool, reverse=True)
    if not left or count < 1:
        return []
    vectors = np.stack([each.vector() for each in left])
    worth = np.array([each.worth for each in left])
    distance = np.full(len(left), 2.0)
    order: list[int] = []
    for _ in range(min(count, len(left))):
        value = worth * distance
        value[order] = -1.0
        place = int(value.argmax())
        order.append(place)
        distance = np.minimum(distance, np.maximum(1.0 - vectors @ vectors[place], 0.0))
    return [left[place] for place in order]


def exact(hits: int, n: int) -> Estimate:
    """Clopper and Pearson's interval (1934) of a share of which `hits` in n were seen."""
    if not n:
        return Estimate(math.nan, 0.0, 1.0, NOT_MEASURABLE)
    tail = (1 + LEVEL) / 2
    low = 1 - upper_bound(n - hits, n, confidence=tail)
    return Estimate(hits / n, low, upper_bound(hits, n, confidence=tail), "Clopper and Pearson")
