"""Who takes part in a ranking: what is at hand or was named, what it costs on this machine, and what is too dear."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from graftage.data.decode import Limits as PictureLimits
from graftage.data.sources import read
from graftage.errors import BackboneError, OptionError, PictureError
from graftage.features import athand
from graftage.features.bundled import DEFAULT
from graftage.features.engine import Forward
from graftage.features.extract import see
from graftage.features.facts import Backbone, BackboneInfo
from graftage.features.preprocess import Fit, Preprocess
from graftage.features.untrained import LEAST, untrained_share
from graftage.features.variants import LARGEST_SIZE, LEAST_SIZE, parse
from graftage.features.weights import read_weights
from graftage.features.zoo import facts_of, known, prior_gap

AUTO = "auto"
_TIME = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_SIZE = {"kb": 1e-3, "mb": 1.0, "gb": 1e3}  # megabytes
_SIZES = (0.72, 1.28)  # of the pretraining's input size, in whole multiples of 32 pixels: the sizes that are tried
_GRID = 32
_TRIES = 15  # single pictures that the latency is the median of
_PATIENCE = 1.5  # seconds that measuring it may take

# What a network of which nothing is known is expected to add to the error rate of the default one, and what its weights
# add to that if they look untrained.
STRANGER, UNTRAINED = 0.025, 0.2

# What ways of using a network add to the error rate of its own way, cropped as it was pretrained: what was found on
# sign-digits and hymenoptera with 100 pictures (bench/choose.py), rounded. The pictures overturn it.
USES = {"smaller": 0.02, "larger": -0.01, "layers": 0.0, "crop": 0.0, "squash": 0.015, "pad": 0.025}


@dataclass(frozen=True)
class Bounds:
    """What a network may cost.

    Attributes:
        latency: seconds for a single picture, decoding excluded; infinite if nothing was said.
        megabytes: of the weights.
    """

    latency: float = float("inf")
    megabytes: float = float("inf")

    @classmethod
    def of(cls, latency: str, size: str) -> "Bounds":
        """From what a person types: "20ms", "50MB"; "" is no bound. Raises OptionError for what is no such."""
        return cls(
            _amount("max-latency", latency, _TIME, "20ms or 0.1s"), _amount("max-size", size, _SIZE, "50MB or 1GB")
        )

    def too_large(self, info: BackboneInfo) -> str:
        """Why these weights are out, "" if they are not."""
        if megabytes(info) > self.megabytes:
            return f"{megabytes(info):.1f} MB of weights, more than the {self.megabytes:g} MB allowed"
        return ""

    def too_slow(self, cost: "Cost") -> str:
        """Why a network is out at this speed, "" if it is not."""
        if cost.forward > self.latency:
            return f"{1e3 * cost.forward:.1f} ms for a picture, more than the {1e3 * self.latency:g} ms allowed"
        return ""


def _amount(name: str, text: str, units: dict[str, float], such: str) -> float:
    if not text:
        return float("inf")
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)", text.strip().lower())
    value = float(match[1]) * units.get(match[2], 0.0) if match else 0.0
    if not value > 0:
        raise OptionError(f"{name} must be such as {such}, got {text!r}")
    return value


def megabytes(info: BackboneInfo) -> float:
    """Size of the weights in float32: nearly all of a model file."""
    return info.parameters * 4 / 1e6


@dataclass(frozen=True)
class Cost:
    """What a network takes on this machine.

    Attributes:
        forward: seconds for a single picture that has been decoded and made square.
        whole: seconds for a single picture from the bytes of its file on.
    """

    forward: float
    whole: float

    def beside(self, other: "Cost") -> "Cost":
        """Both networks on one picture, which is decoded once."""
        return Cost(self.forward + other.forward, self.whole + other.forward)


def measure_cost(forward: Forward, preprocess: Preprocess, files: Sequence[Path], limits: PictureLimits) -> Cost:
    """Medians over some of the user's own pictures, one at a time; the first one only warms up."""
    alone, whole = list[float](), list[float]()
    begun = time.perf_counter()
    for i in range(_TRIES + 1):
        path = files[i % len(files)]
        try:
            data = read(path, limits=limits)
            start = time.perf_counter()
            see(data, forward=forward, preprocess=preprocess, limits=limits)
            whole.append(time.perf_counter() - start)
        except PictureError:
            continue
        square = np.zeros((1, preprocess.size, preprocess.size, 3), np.uint8)
        start = time.perf_counter()
        forward(square)
        alone.append(time.perf_counter() - start)
        if time.perf_counter() - begun > _PATIENCE and len(whole) > 1:
            break
    if not whole:
        raise PictureError("no picture could be decoded to time the network on")
    drop = 1 if len(whole) > 1 else 0
    return Cost(float(np.median(alone[drop:])), float(np.median(whole[drop:])))


def named(candidates: str) -> list[str]:
    """The ids that a person named, or all that are at hand for "auto". Raises OptionError if there is none."""
    found = at_hand() if candidates.strip() in ("", AUTO) else [c.strip() for c in candidates.split(",") if c.strip()]
    if not found:
        raise OptionError("no candidate is named: --candidates auto, or ids joined by commas; see graftage backbones")
    if AUTO in found:
        found = [each for name in found for each in (at_hand() if name == AUTO else [name])]
    return list(dict.fromkeys(_canonical(name) for name in found))


def _canonical(name: str) -> str:
    try:
        return parse(name).spec
    except BackboneError:  # a row of its own says why
        return name


def at_hand() -> list[str]:
    """Ids of all networks that can be had without a network connection, in the order of the table of networks."""
    return [facts.id for facts in known().values() if facts.features and athand.at_hand(facts)]


def other_uses(spec: str, backbone: Backbone, *, layers: bool = True) -> list[str]:
    """The same network at other input sizes and with two layers together; none for one that is used so already."""
    variant = parse(spec)
    if not variant.plain or backbone.info.architecture.startswith("keras/"):
        return []
    own = backbone.preprocess.size
    sizes = {max(round(own * share / _GRID) * _GRID, LEAST_SIZE) for share in _SIZES}
    more = [f"{spec}#2"] if layers else []
    return [*more, *(f"{spec}@{size}" for size in sorted(sizes - {own}) if size <= LARGEST_SIZE)]


def work_of(spec: str, backbone: Backbone) -> float:
    """Multiplications of one picture, about: as the table of networks says, at the size that the network is used at.

    Of one that is not in the table, parameters times places of its last map: convolutions are used once a place.
    """
    info, size = backbone.info, backbone.preprocess.size
    if len(ids := parse(spec).ids) == 1 and (facts := facts_of(ids[0])):
        return facts.macs * (size / facts.input_size) ** 2
    return info.parameters * (size / 32) ** 2


def prior_of(spec: str, *, without: str = "", untrained: bool = False) -> float:
    """By how much the error rate is expected to exceed that of the default network; `STRANGER` of one not in the table.

    Args:
        spec: the network.
        without: see `prior_gap`.
        untrained: whether the weights of one that is not in the table look as if they had never been trained.
    """
    usual, facts = facts_of(DEFAULT), facts_of(spec)
    gap = prior_gap(facts, usual, without=without) if facts and usual else None
    return STRANGER + UNTRAINED * untrained if gap is None else gap / 100


def looks_untrained(spec: str, backbone: Backbone) -> bool:
    """Whether a network that is not in the table has weights that look as if they had never been trained."""
    return facts_of(spec) is None and untrained_share(read_weights(backbone)) >= LEAST


def use_gap(spec: str, own: int, fit: str) -> float:
    """What a way of using a network is expected to add to the error rate of its own way (see `USES`).

    Args:
        spec: with its size and layers.
        own: side of the square that it was pretrained on, pixels.
        fit: how the square is made.
    """
    variant = parse(spec)
    size = variant.size or own
    gap = USES["smaller"] if size < own else USES["larger"] if size > own else 0.0
    return gap + (USES["layers"] if variant.layers > 1 else 0.0) + USES[fit]


def way_of(spec: str, own: int, fit: str, usual: str) -> str:
    """What a way of using a network is called, the same for all networks; empty for one used as it was pretrained.

    Args:
        spec, own, fit: as in `use_gap`.
        usual: how the square is made for networks as they were pretrained.
    """
    variant = parse(spec)
    size = variant.size or own
    words = ("smaller" if size < own else "larger" if size > own else "", "layers" if variant.layers > 1 else "")
    return " ".join(word for word in (*words, fit if fit != usual else "") if word)


def best_first(fits: Sequence[Fit]) -> tuple[Fit, ...]:
    """Ways of making the square, that of which most is expected first."""
    return tuple(sorted(fits, key=lambda fit: USES[fit]))
