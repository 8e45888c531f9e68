"""The same network trained from random weights on more and more of the pictures: what pretraining is held against.

Some pictures are set apart for good; of the others ever larger parts, each twice the one before, are learnt from, once
with every weight drawn at random and once by a ridge head on the pretrained network's frozen features. What a training
answered is kept under a name made of all that shapes it, so that an interrupted run, or one with more time, goes on.
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftage.costs import measure_cost
from graftage.data.split import folds, locked_test
from graftage.errors import DataError, OptionError
from graftage.features.cache import cache_root, ready, write_whole
from graftage.features.variants import is_varied
from graftage.ground import Ground, without_harmful_flips
from graftage.learn import defaults
from graftage.learn.refits import answers_of
from graftage.learn.search import search
from graftage.measure.curve import Metric
from graftage.measure.worth import LUCK, Answered, Worth, worth
from graftage.plans import duration
from graftage.recipes import Ready, prepare
from graftage.states import States
from graftage.training import inputs_of, make_task, precision_on, run_task, training_device

if TYPE_CHECKING:
    from graftage.features.views import Pictures
    from graftage.looking import Looked

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

BUDGET = "10m"  # for the trainings, where none is named

_HELD, _HELD_AT_MOST = 0.25, 1000  # pictures set apart: share, and no more than
_SIZES = (4, 3)  # trainings, if the pictures allow as many; each learns from twice as many as the one before
_SHARES = (1.0, 0.75, 0.5)  # of a recipe's epochs that are tried before fewer pictures are learnt from
_FEWER = (0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.0)  # and after; 0 is one epoch
_SMALL = 8  # pretrained sizes from the smallest to all, evenly on a logarithmic scale
_PARTS = 8  # pretrained classifiers of each of these sizes
_SLACK = 1.1  # times its budget that a training may take before it is broken off
_FORMAT = 1  # of what is kept


@dataclass(frozen=True)
class ScratchPlan:
    """Which trainings from random weights there will be.

    Attributes:
        sizes: pictures of each, rising.
        epochs: of each.
        fair: epochs of each that its recipe has.
        picture: seconds for a picture of an epoch.
        asked: pictures held out.
    """

    sizes: tuple[int, ...]
    epochs: tuple[int, ...]
    fair: tuple[int, ...]
    picture: float
    asked: int

    @property
    def seconds(self) -> tuple[float, ...]:
        """Expected of each; to be asked costs a third of being learnt from."""
        pairs = zip(self.sizes, self.epochs, strict=True)
        return tuple((m * e + self.asked / 3) * self.picture + 2.0 for m, e in pairs)

    @property
    def short(self) -> bool:
        """Whether the time holds fewer epochs than the recipe has."""
        return any(e < f for e, f in zip(self.epochs, self.fair, strict=True))

    def lines(self, done: tuple[int, ...] = ()) -> tuple[str, ...]:
        """For a person; sizes in `done` are there from an earlier run."""
        rows = [
            f"plan: from scratch, {m:,} pictures, {e} epochs{'' if e >= f else f' of {f} that it should have'}; "
            + ("kept from an earlier run" if m in done else f"about {duration(s)}")
            for m, e, f, s in zip(self.sizes, self.epochs, self.fair, self.seconds, strict=True)
        ]
        left = sum(s for m, s in zip(self.sizes, self.seconds, strict=True) if m not in done)
        return (*rows, f"plan: about {duration(left)} in all, {self.asked:,} pictures held out from every training")


@dataclass(frozen=True)
class Trained:
    """What a training from random weights came to.

    Attributes:
        pictures: learnt from.
        epochs: gone through; fair: that its recipe has.
        train_loss: mean over its pictures in the last epoch, as seen in training.
        right: one of "0" and "1" for each picture held out.
    """

    pictures: int
    epochs: int
    fair: int
    train_loss: float
    right: str


@dataclass(frozen=True, eq=False)
class FromScratch:
    """Both curves, and how the trainings from random weights went.

    Attributes:
        worth: what was measured and foretold.
        trained: by size, rising.
        planned: sizes that were planned; more than were trained where the time ran out.
        recipe: hyperparameters that all of them share.
        classes: K.
    """

    worth: Worth
    trained: tuple[Trained, ...]
    planned: tuple[int, ...]
    recipe: Mapping[str, Any]
    classes: int


def plan(pool: int, asked: int, n_classes: int, picture: float, *, budget: float, epochs: int | None) -> ScratchPlan:
    """As many pictures as the time holds at half of the recipe's epochs or more; fewer epochs where it holds none.

    Args:
        pool: pictures that may be learnt from.
        asked: pictures held out.
        n_classes: K.
        picture: seconds for a picture of an epoch.
        budget: seconds for all trainings.
        epochs: of every training, if the user has said; else those of the recipe, or what the time holds of them.

    Raises:
        DataError: too few pictures.
        OptionError: the time is too short for one epoch of each.
    """
    least = max(2 * n_classes, 12)
    found: ScratchPlan | None = None
    tops = [round(pool / 2**k) for k in range(20)]
    usable = [(top, count) for top in tops for count in _SIZES if top >> (count - 1) >= least]
    if not usable:
        raise DataError(
            f"{pool + asked:,} pictures of {n_classes} classes are too few for curves from scratch; "
            f"they take {math.ceil(least * 2 ** (_SIZES[-1] - 1) / (1 - _HELD)):,} or more"
        )
    tried = [(top, count, s) for top, count in usable for s in (_SHARES if epochs is None else (1.0,))]
    tried += [(*usable[-1], s) for s in _FEWER if epochs is None]
    for top, count, share in tried:
        sizes = tuple(round(top / 2**j) for j in reversed(range(count)))
        fair = tuple(defaults.recipe("scratch", family="plain", n=m).epochs for m in sizes)
        own = tuple(epochs or max(1, math.ceil(share * f)) for f in fair)
        found = ScratchPlan(sizes, own, fair, picture, asked)
        if sum(found.seconds) <= budget:
            return found
    assert found is not None
    raise OptionError(
        f"trainings from scratch of {', '.join(f'{m:,}' for m in found.sizes)} pictures, {found.epochs[0]} epochs "
        f"each, take about {duration(sum(found.seconds))}; take a longer --budget"
    )


def against_scratch(
    looked: "Looked", pictures: "Pictures", X: NDArray[np.float32], y: Ints, groups: Ints, *, metric: Metric
) -> FromScratch:
    """Both curves; prints the plan before the trainings begin.

    Args:
        looked: the pretrained network and the settings.
        pictures: n files.
        X: float32 (n, D) their features.
        y: int64 (n,) their classes 0..K−1.
        groups: int64 (n,) pictures that belong together.
        metric: of the scores.

    Raises:
        DataError: too few pictures.
        OptionError: the network cannot be trained from scratch, or the time is too short.
    """
    settings, journal = looked.settings, looked.journal
    info = looked.backbone.info
    if info.architecture.startswith("keras/") or is_varied(info.architecture, info.output):
        raise OptionError(
            "only a network of timm with its own feature vector can be trained from scratch: no Keras one, and not "
            "several networks or layers together"
        )
    n_classes, share = int(y.max()) + 1, min(_HELD, _HELD_AT_MOST / len(y))
    apart = locked_test(y, groups, fraction=share, rng=np.random.default_rng([settings.seed, 12]))
    with journal.stage("prepare training from scratch"):
        ground = _ground(looked, pictures, X, y, groups, apart.train)
        start = prepare(ground, "scratch")
        store = _Store(ground, start, apart.train, apart.test)
        agreed = _planned(ground, start, store, n_classes, len(apart.train))
    parts = {m: _part(y, groups, apart.train, m, settings.seed, 0) for m in agreed.sizes}
    trained = _train_all(ground, start, store, agreed, parts)
    sizes = np.array([each.pictures for each in trained], dtype=np.int64)
    right = np.array([[mark == "1" for mark in each.right] for each in trained], dtype=np.float64)
    with journal.stage("the same pictures, pretrained"):
        own = [parts[m] for m in agreed.sizes[: len(trained)]]
        same, usual = _pretrained(X, y, groups, apart.train, apart.test, own, settings.seed)
        rng, z = np.random.default_rng([settings.seed, 13]), y[apart.test]
        answered = Answered(sizes, right, np.full(len(sizes), LUCK)), Answered(sizes, same, np.zeros(len(sizes))), usual
        found = worth(*answered, z, groups[apart.test], metric=metric, rng=rng)
    facts = {name: value for name, value in vars(start.recipe).items() if name != "epochs"}
    return FromScratch(found, trained, agreed.sizes, facts, n_classes)


def _ground(
    looked: "Looked", pictures: "Pictures", X: NDArray[np.float32], y: Ints, groups: Ints, pool: Ints
) -> Ground:
    """What the trainings stand on; whether flips do harm is asked of the pool alone."""
    k = min(5, len(np.unique(groups[pool])))
    inside = folds(y[pool], groups[pool], k=k, repeats=1, rng=np.random.default_rng([looked.settings.seed, 2]))
    fit = pictures.preprocess.fit
    searched = search(X[pool], y[pool], inside, fit=fit, families=(), seed=looked.settings.seed)
    own = replace(
        pictures, paths=tuple(pictures.paths[i] for i in pool), digests=tuple(pictures.digests[i] for i in pool)
    )
    inner = Ground(
        settings=looked.settings,
        backbone=looked.backbone,
        forward=looked.forward,
        journal=looked.journal,
        pictures=own,
        X=X[pool],
        y=y[pool],
        held=inside[0],
        classes=tuple(str(k) for k in range(int(y.max()) + 1)),
        searched=searched,
        head=searched.chosen(),
        fit=fit,
        groups=groups[pool],
        whole=False,
        started=time.monotonic(),
    )
    held = np.full(len(y), -1, dtype=np.int64)
    held[pool] = inside[0]
    return replace(without_harmful_flips(inner), pictures=pictures, X=X, y=y, held=held, groups=groups)


def _part(y: Ints, groups: Ints, pool: Ints, size: int, seed: int, number: int) -> Ints:
    """About so many rows of the pool, class by class, groups whole; every class of the pool among them if it can be."""
    if size >= len(pool):
        return pool
    rng = np.random.default_rng([seed, 14, size, number])
    return pool[locked_test(y[pool], groups[pool], fraction=size / len(pool), rng=rng).test]


def _pretrained(
    X: NDArray[np.float32], y: Ints, groups: Ints, pool: Ints, asked: Ints, same: list[Ints], seed: int
) -> tuple[Floats, Answered]:
    """Right or wrong of the pretrained network on the very parts `same`, (J, t); and its own curve."""
    least = max(2 * (int(y.max()) + 1), 8)
    drawn = [
        (int(m), [p for r in range(_PARTS) if len(np.unique(y[p := _part(y, groups, pool, int(m), seed, r + 1)])) > 1])
        for m in np.unique(np.geomspace(least, len(pool), _SMALL).round())
    ]
    drawn = [(m, parts) for m, parts in drawn if parts]
    answers = answers_of(X, y, groups, [*same, *(p for _, parts in drawn for p in parts)], asked)
    right = (answers == y[asked]).astype(np.float64)
    ends = len(same) + np.cumsum([len(parts) for _, parts in drawn])
    each = np.split(right[len(same) :], ends[:-1] - len(same))
    luck = np.array([one.mean(axis=1).std() / np.sqrt(max(1, len(one) - 1)) for one in each])
    sizes = np.array([m for m, _ in drawn], dtype=np.int64)
    return right[: len(same)], Answered(sizes, np.array([one.mean(axis=0) for one in each]), luck)


class _Store:
    """What is kept of the trainings, each under a name made of all that shapes it."""

    def __init__(self, ground: Ground, start: Ready, pool: Ints, asked: Ints) -> None:
        self.folder = ready(cache_root() / "scratch")
        device = training_device(ground.settings)
        digests = ground.pictures.digests
        self._digests, self._y = digests, ground.y
        recipe = {name: value for name, value in vars(start.recipe).items() if name != "epochs"}
        held = [(digests[i], int(ground.y[i])) for i in asked]
        architecture, preprocess = ground.backbone.info.architecture, ground.pictures.preprocess.key
        amp = precision_on(device, ground.settings.amp)
        versions = [version(name) for name in ("timm", "torch")]
        self._common = [_FORMAT, *versions, architecture, preprocess, recipe, ground.settings.seed, device, amp, held]
        self._pool = [(digests[i], int(ground.y[i])) for i in pool]

    def plan_file(self, budget: float, epochs: int | None) -> Path:
        """Where the plan for so much time is kept: a second run goes on with the very plan of the first."""
        return self.folder / f"{_hash([self._common, self._pool, budget, epochs])}.plan.json"

    def file(self, part: Ints, epochs: int) -> Path:
        """Where the answers of one training are kept."""
        rows = [(self._digests[i], int(self._y[i])) for i in part]
        return self.folder / f"{_hash([self._common, rows, epochs])}.json"


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or damaged: it is computed again
        return None
    return found


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(content).encode())


def _planned(ground: Ground, start: Ready, store: _Store, n_classes: int, pool: int) -> ScratchPlan:
    budget = replace(ground.settings, budget=ground.settings.budget or BUDGET).seconds()
    assert budget is not None
    file = store.plan_file(budget, ground.settings.epochs)
    if (kept := _read(file)) is not None:
        sizes, epochs, fair = (tuple(map(int, kept[name])) for name in ("sizes", "epochs", "fair"))
        return ScratchPlan(sizes, epochs, fair, float(kept["picture"]), int(kept["asked"]))
    cost = measure_cost(ground, start)
    asked = len(ground.y) - pool
    found = plan(pool, asked, n_classes, cost.picture, budget=budget, epochs=ground.settings.epochs)
    _write(file, vars(found))
    return found


def _train_all(
    ground: Ground, start: Ready, store: _Store, agreed: ScratchPlan, parts: Mapping[int, Ints]
) -> tuple[Trained, ...]:
    """The trainings, smallest first, as far as the time goes."""
    journal, began = ground.journal, time.monotonic()
    files = {m: store.file(parts[m], e) for m, e in zip(agreed.sizes, agreed.epochs, strict=True)}
    kept = {m: Trained(**record) for m, file in files.items() if (record := _read(file)) is not None}
    for line in agreed.lines(tuple(kept)):
        journal.row(line)
    budget = replace(ground.settings, budget=ground.settings.budget or BUDGET).seconds() or 0.0
    left = sum(s for m, s in zip(agreed.sizes, agreed.seconds, strict=True) if m not in kept)
    until = began + _SLACK * budget
    found: list[Trained] = []
    for m, epochs, fair, seconds in zip(agreed.sizes, agreed.epochs, agreed.fair, agreed.seconds, strict=True):
        one: Trained | None = kept.get(m) or _train_one(ground, start, parts[m], epochs, fair, files[m], until)
        if one is None:
            journal.note(
                f"the time ran out within the training of {m:,} pictures from scratch: the curve goes up to "
                f"{found[-1].pictures if found else 0:,}; the same command goes on from there"
            )
            break
        found.append(one)
        left -= 0.0 if m in kept else seconds
        to_go = f"; about {duration(left)} to go" if left > 1 else ""
        share = one.right.count("1") / len(one.right)
        journal.row(f"from scratch, {m:,} pictures: {100 * share:.1f} % of {len(one.right):,} held out{to_go}")
    if not found:
        raise OptionError("the time ran out within the first training; the same command goes on from there")
    return tuple(found)


def _train_one(
    ground: Ground, start: Ready, part: Ints, epochs: int, fair: int, file: Path, until: float
) -> Trained | None:
    """One training; None where it had to be broken off. Its state is kept beside the file until it is whole."""
    states = States(ready(file.with_suffix(".resume")))
    name = f"scratch, {len(part)} pictures"
    own = replace(start, recipe=replace(start.recipe, epochs=epochs))
    quiet = replace(ground, journal=ground.journal.with_fewer_rows())
    asked = np.flatnonzero(ground.held < 0)
    with inputs_of(quiet, own) as batches:
        task = make_task(quiet, own, batches, part, part[:0], name)
        _, training = run_task(quiet, task, name, states, until=until)
        if not training.over:
            return None
        right = training.logits(asked).argmax(axis=1) == ground.y[asked]
    marks = "".join("1" if r else "0" for r in right)
    loss = training.records[-1].train_loss
    found = Trained(len(part), len(training.records), fair, loss, marks)
    _write(file, vars(found))
    states.remove()
    return found
