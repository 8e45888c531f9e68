"""What is known of every pretrained network by its id alone, without building or fetching it: a table in the package.

`zoo.csv` has a row for each network of timm's, of Keras' applications and of the bundled ones; `bench/zoo.py` made it
and says how. `prior.json` beside it holds what it takes to guess which of two networks is the better start. Nothing
here imports a network library, and nothing is asked of the internet.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, TypedDict

from graftage.errors import BackboneError, OptionError

GATES = ("", "commercial", "commercial-or-unknown")
UNKNOWN = "unknown"

# What licences of weights say of use in a product. Those with terms of their own that are neither plainly free nor
# plainly for research alone (Apple's sample code, DINOv3's, Gemma's, …) are not here: somebody has to read them.
_COMMERCIAL = {
    "Apache-2.0": True,
    "MIT": True,
    "BSD-3-Clause": True,
    "CC-BY-4.0": True,
    "CC-BY-NC-4.0": False,
    "CC-BY-NC-SA-4.0": False,
    "apple-amlr": False,
    "fair-noncommercial-research-license": False,
}
_SPDX = {name.lower(): name for name in _COMMERCIAL}
_USE = {True: "yes", False: "no", None: UNKNOWN}
_VARIANT = re.compile(r"(?:@[0-9]{1,5}|#[0-9]{1,3})+$")
_NAMED = 3  # alternatives in a sentence
SETS = 4  # sets of our own benchmark that what is expected of a network counts as


@dataclass(frozen=True)
class Measured:
    """What our own benchmark found with a network's frozen features (`bench/prior.py`).

    Attributes:
        set: name of the set of pictures.
        n: how many of them were learnt from.
        score: accuracy on the others, percent, mean over several draws of n.
        standard_error: of the score, points.
    """

    set: str
    n: int
    score: float
    standard_error: float


@dataclass(frozen=True)
class Facts:
    """What is known of one pretrained network.

    Attributes:
        id: "timm/NAME.TAG", "bundled/NAME" or "keras/NAME".
        family: kind of architecture, such as "resnet", "vit" or "convnext".
        parameters: without the classifier.
        macs: multiplications of a forward pass of one picture at `input_size`, without the classifier.
        input_size: side of the square that graftage gives it, pixels.
        any_size: whether its architecture takes squares of other sizes as it stands.
        features: width of its feature vector; 0 if it gives a row of tokens and no vector.
        pretraining: data sets in the order in which they were learnt from, joined by "→": "in21k→in1k".
        top1: accuracy on ImageNet-1k's validation set with its own classifier, percent; None where unknown.
        licence: of the weights, an SPDX name where there is one, else as its publisher calls it, else "unknown".
        hub: repository on the Hugging Face hub (of Keras' networks: the file in Keras' cache); "" if there is none.
        measured: what our own benchmark found.
    """

    id: str
    family: str
    parameters: int
    macs: int
    input_size: int
    any_size: bool
    features: int
    pretraining: str
    top1: float | None
    licence: str
    hub: str
    measured: tuple[Measured, ...] = ()

    @property
    def commercial(self) -> bool | None:
        """Whether its licence allows use in a product; None where that is not known."""
        return commercial_use(self.licence)


@cache
def known() -> Mapping[str, Facts]:
    """Facts of every network in the table, by id."""
    text = files("graftage.features").joinpath("zoo.csv").read_text(encoding="utf-8")
    rows = csv.reader(line for line in text.splitlines() if not line.startswith("#"))
    next(rows)  # names of the columns
    measured = _prior()["measured"]
    return MappingProxyType({row[0]: _facts(row, measured.get(row[0], ())) for row in rows})


def facts_of(backbone_id: str) -> Facts | None:
    """Facts of a network, also where its id asks for another input size or more layers (`ID@192`, `ID#2`), or None."""
    name = _VARIANT.sub("", backbone_id)
    if name in known() or not name.startswith("timm/") or "." in name:
        return known().get(name)
    tagged = [facts for one, facts in known().items() if one.startswith(f"{name}.")]
    return tagged[0] if len(tagged) == 1 else None  # which of several is meant, timm decides


def nearest(name: str) -> tuple[str, ...]:
    """Ids of up to three networks that somebody who typed `name`, with or without its kind or tag, may have meant."""
    kind, _, typed = name.lower().rpartition("/")
    by_name: dict[str, list[str]] = {}
    for one in [one for one in known() if one.startswith(f"{kind}/")] or known():
        short = one.partition("/")[2].lower()
        by_name.setdefault(short if "." in typed else short.partition(".")[0], []).append(one)
    begun = [short for short in by_name if short.startswith(typed) and typed]
    found: dict[tuple[str, str], str] = {}
    for short in (*begun, *get_close_matches(typed, by_name, n=_NAMED, cutoff=0.6)):
        for one in by_name[short]:
            found.setdefault((short, one.partition("/")[0]), one)  # of each kind one of the name is enough
    return tuple(found.values())[:_NAMED]


def families() -> tuple[str, ...]:
    """All families, in alphabetical order."""
    return tuple(sorted({facts.family for facts in known().values()}))


def _facts(row: list[str], measured: Iterable[Mapping[str, Any]]) -> Facts:
    name, family, parameters, macs, size, any_size, features, pretraining, top1, licence, hub = row
    if hub == "=":  # where timm's own are
        hub = name
    return Facts(
        name,
        family,
        int(parameters),
        int(macs),
        int(size),
        any_size == "1",
        int(features),
        pretraining,
        float(top1) if top1 else None,
        licence,
        hub,
        tuple(Measured(**each) for each in measured),
    )


class _Prior(TypedDict):
    top1: dict[str, float]  # weights of `regressors`
    points_per_point: float
    measured: dict[str, list[dict[str, Any]]]  # id → fields of `Measured`


@cache
def _prior() -> _Prior:
    read: _Prior = json.loads(files("graftage.features").joinpath("prior.json").read_text(encoding="utf-8"))
    return read


# ---------------------------------------------------------------- licences


def spdx(licence: str | None) -> str:
    """The usual spelling of a licence's name, "unknown" for none."""
    return _SPDX.get(licence.lower(), licence) if licence else UNKNOWN


def commercial_use(licence: str) -> bool | None:
    """Whether a licence of weights allows use in a product; None where that is not known.

    Of several joined by " AND " all must allow it.
    """
    uses = [_COMMERCIAL.get(spdx(part.strip())) for part in licence.split(" AND ")]
    if False in uses:
        return False
    return None if None in uses else True


def use_words(licence: str) -> str:
    """“yes”, “no” or “unknown”: whether a licence of weights allows use in a product."""
    return _USE[commercial_use(licence)]


def allowed(licence: str, gate: str) -> bool:
    """Whether weights under `licence` pass `gate`, one of `GATES`. Raises OptionError for any other gate."""
    require_gate(gate)
    if not gate:
        return True
    use = commercial_use(licence)
    return use is True or (use is None and gate == "commercial-or-unknown")


def require_gate(gate: str) -> None:
    """Raises OptionError unless `gate` is one of `GATES`."""
    if gate not in GATES:
        near = get_close_matches(gate, GATES[1:], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise OptionError(f"licence must be one of {', '.join(GATES[1:])}, got {gate!r}{hint}")


def require_licence(backbone_id: str, licence: str | None, gate: str) -> None:
    """Lets a network pass the gate or says why not and what else there is.

    Args:
        backbone_id: of the network.
        licence: of its weights where somebody has found it; None asks the table alone and lets pass what it lacks.
        gate: see `GATES`.

    Raises:
        BackboneError: the licence does not pass.
        OptionError: no such gate.
    """
    require_gate(gate)
    facts = facts_of(backbone_id)
    name = facts.licence if facts else licence  # the table knows better than the configuration beside the weights
    if not gate or name is None or allowed(name, gate):
        return
    if commercial_use(name) is False:
        why = f"its licence ({name}) allows no use in a product"
        way = ""
    else:
        why = f"its licence {'is not known' if name == UNKNOWN else f'({name}) has terms of its own'}"
        way = "; if you have read its terms and may use it in a product, give --licence commercial-or-unknown"
    others = alternatives(facts, gate) if facts else ()
    near = f" Allowed and near to it: {', '.join(f.id for f in others)}." if others else ""
    raise BackboneError(f"backbone {backbone_id}: {why}, and --licence {gate} was asked for{way}.{near}")


def alternatives(facts: Facts, gate: str) -> tuple[Facts, ...]:
    """Up to three networks that pass the gate: of the same family if there are any, nearest in cost and accuracy."""
    fit = [f for f in known().values() if f.features and f.id != facts.id and allowed(f.licence, gate)]
    same = [f for f in fit if f.family == facts.family]
    return tuple(sorted(same or fit, key=lambda f: (_apart(facts, f), f.id))[:_NAMED])


def _apart(a: Facts, b: Facts) -> float:
    """How unlike two networks are: doublings of the work, and points of top-1 at five to a doubling."""
    return abs(math.log2(a.macs / b.macs)) + abs(expected_top1(a) - expected_top1(b)) / 5


# ---------------------------------------------------------------- the prior


def expected_top1(facts: Facts) -> float:
    """Accuracy on ImageNet-1k in percent: as measured, else by regression on work, size and pretraining.

    The regression is of the logarithm of the error, over all networks whose accuracy is known (`bench/zoo.py`).
    """
    if facts.top1 is not None:
        return facts.top1
    weights = _prior()["top1"]
    return 100 - math.exp(sum(weights[name] * x for name, x in regressors(facts).items()))


def regressors(facts: Facts) -> dict[str, float]:
    """What the regression for `expected_top1` looks at."""
    first = facts.pretraining.split("→")[0].rpartition(":")[2]
    labelled = first in ("in12k", "in21k", "in22k", "inw21k")
    return {
        "one": 1.0,
        "log10_macs": math.log10(facts.macs),
        "log10_parameters": math.log10(facts.parameters),
        "transformer": float(facts.family in _TRANSFORMERS),
        "more_labels": float(labelled),
        "more_pictures": float(not labelled and first not in ("in1k", UNKNOWN)),
    }


_TRANSFORMERS = ("beit", "cait", "deit", "deit3", "eva", "flexivit", "naflexvit", "swin", "swinv2", "vit")


def prior_gap(a: Facts, b: Facts, *, without: str = "") -> float | None:
    """By how many points the error of a classifier on features of `a` is expected to exceed that on features of `b`.

    The difference in ImageNet-1k accuracy, measured or expected, times a slope: accuracy on other pictures goes along
    with it (Kornblith et al., Do Better ImageNet Models Transfer Better?, CVPR 2019), but by less than point for point;
    the half that is taken is an assumption. Where our own benchmark has measured both with as many pictures of the same
    sets, it is the mean of those differences and of the expected one, which counts as `SETS` sets. None where nothing
    can be said: weights that have only ever filled in masked pictures are poor as frozen features, and by how much
    varies.

    Args:
        a: one network.
        b: the other.
        without: name of a set that does not count: the one on which the answer will be judged.
    """
    own = {(m.set, m.n): m.score for m in a.measured if m.set != without}
    gaps = [m.score - own[m.set, m.n] for m in b.measured if (m.set, m.n) in own]
    if any(_masked_only(f) or not f.features for f in (a, b)):
        return sum(gaps) / len(gaps) if gaps else None
    expected = float(_prior()["points_per_point"] * (expected_top1(b) - expected_top1(a)))
    return (SETS * expected + sum(gaps)) / (SETS + len(gaps))


def _masked_only(facts: Facts) -> bool:
    method, _, _ = facts.pretraining.partition(":")
    return "→" not in facts.pretraining and method in ("mae", "mim", "fcmae", "ijepa")


# ---------------------------------------------------------------- searching


@dataclass(frozen=True)
class Wish:
    """What a network shall be like; a bound that is None and a text that is "" are no wish.

    Attributes:
        text: part of the id.
        family: see `families`.
        max_parameters: largest number of parameters.
        max_macs: most multiplications for one picture.
        input_size: side of its square, pixels; also of those that take any.
        pretraining: part of the names of the data sets, such as "in21k".
        min_top1: least accuracy on ImageNet-1k, percent.
        licence: see `GATES`.
    """

    text: str = ""
    family: str = ""
    max_parameters: float | None = None
    max_macs: float | None = None
    input_size: int | None = None
    pretraining: str = ""
    min_top1: float | None = None
    licence: str = ""


def matching(wish: Wish) -> tuple[Facts, ...]:
    """All networks that are as wished, in the table's order.

    Raises:
        OptionError: nothing has this text, family or pretraining; the nearest that there are are named.
    """
    require_gate(wish.licence)
    everything = tuple(known().values())
    if wish.family and wish.family not in families():
        raise OptionError(_nothing("family", wish.family, families(), "networks of the family"))
    if wish.pretraining and not any(wish.pretraining in f.pretraining for f in everything):
        sets = sorted({part.rpartition(":")[2] for f in everything for part in f.pretraining.split("→")})
        raise OptionError(_nothing("pretraining", wish.pretraining, sets, "networks pretrained on"))
    text = wish.text.lower()
    found = [f for f in everything if text in f.id.lower()]
    if not found:
        near = nearest(text)
        hint = f"; near to it: {', '.join(near)}" if near else ""
        raise OptionError(f"no pretrained network is known whose name holds {wish.text!r}{hint}")
    return tuple(f for f in found if _as_wished(f, wish))


def _nothing(option: str, value: str, there: Iterable[str], what: str) -> str:
    choices = list(there)
    near = get_close_matches(value.lower(), choices, n=_NAMED, cutoff=0.5)
    hint = f"; near to it: {', '.join(near)}" if near else f"; there are {', '.join(choices)}"
    return f"--{option}: no {what} {value!r} are known{hint}"


def _as_wished(facts: Facts, wish: Wish) -> bool:
    return (
        (not wish.family or facts.family == wish.family)
        and (wish.max_parameters is None or facts.parameters <= wish.max_parameters)
        and (wish.max_macs is None or facts.macs <= wish.max_macs)
        and (wish.input_size is None or facts.input_size == wish.input_size or facts.any_size)
        and wish.pretraining in facts.pretraining
        and (wish.min_top1 is None or (facts.top1 is not None and facts.top1 >= wish.min_top1))
        and allowed(facts.licence, wish.licence)
    )
