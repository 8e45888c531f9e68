"""The steps of `graftage rank` and of `train --backbone auto`: networks are opened one at a time and raced.

A network is opened, asked for features of a few pictures, and let go before the next one is opened; what it computed
stays in the store, so neither a later round nor a later `train` computes it again.
"""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from graftage import entrants, looking
from graftage.data.catalog import Catalog
from graftage.data.grouping import groups_of
from graftage.entrants import Bounds, Cost
from graftage.errors import BackboneError, DataError, GraftageError, OptionError
from graftage.features.backbone import find
from graftage.features.engine import cores
from graftage.features.facts import BackboneInfo
from graftage.features.preprocess import Fit
from graftage.features.variants import parse
from graftage.learn.entries import Ask, Entrant, Raced, Sounding
from graftage.learn.head import transform
from graftage.learn.race import SINGLES, race, round_sizes
from graftage.learn.rank import Transferability, sound, transferability
from graftage.looking import Looked
from graftage.parting import Partition
from graftage.progress import Journal, Silent
from graftage.settings import Settings

Ints = NDArray[np.int64]

SHARE = 0.25  # of the work of embedding every picture with every network in every way: what a ranking may take
TO_THE_END = (
    1.5  # of the work of embedding every picture with every network as pretrained, where all pictures are raced on
)
ENOUGH = 300  # pictures of every network that are allowed in any case

_OPENING = 8.0  # seconds that a network takes to be made ready and measured on the first pictures, roughly


@dataclass(frozen=True, eq=False)
class Use:
    """A way of using a network: its spec, the fit, and what is known of it.

    Attributes:
        spec: what `find` takes.
        fit: how the square is made.
        info: facts, and cost: what it takes here; None until it was opened.
    """

    spec: str
    fit: Fit
    info: BackboneInfo | None = None
    cost: Cost | None = None


@dataclass(frozen=True, eq=False)
class Ranking:
    """What came of it.

    Attributes:
        raced: the race; None where a single candidate was left, which has won without one.
        uses: by an entrant's name.
        shut_out: (name, why) of those that never raced.
        rows: catalog indices of the pictures of the last round.
        groups: of these.
        seconds: by an entrant's name, what a picture takes, decoding included, all cores at work; None if not known.
        scores: by an entrant's name, where they were asked for.
    """

    raced: Raced
    uses: dict[str, Use]
    shut_out: tuple[tuple[str, str], ...]
    rows: Ints
    groups: Ints
    seconds: dict[str, float | None]
    scores: dict[str, Transferability]

    @property
    def chosen(self) -> Use:
        """How the winner is used."""
        return self.uses[self.raced.winner.entrant.name]


@dataclass(eq=False)
class Course:
    """Where networks race: the pictures, and what is known of the networks so far.

    Attributes:
        settings: of the run; its backbone does not matter.
        catalog: after the gate.
        rows: catalog indices of the n pictures learnt from.
        bounds: what a network may cost.
        journal: told what happens.
        fit: how the square is made, to begin with; fits: all ways that are tried.
        deadline: `time.monotonic` at which it ends, and allowed: the seconds that it had from the start of the command.
        timed: whether what a picture takes is measured here.
        whole: whether only single networks with their own feature vector will do: others cannot be tuned.
    """

    settings: Settings
    catalog: Catalog
    rows: Ints
    bounds: Bounds
    journal: Journal
    fits: tuple[Fit, ...]
    deadline: float = math.inf
    allowed: float = math.inf
    timed: bool = True
    whole: bool = False
    uses: dict[str, Use] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def opened(self, use: Use) -> Iterator[Looked]:
        """A network, for as long as the block lasts. What it has to tell goes into the journal."""
        settings = replace(self.settings, backbone=use.spec, fit=use.fit)
        quiet = Journal(Silent())
        backbone, forward = looking.open_network(settings, self.catalog, self.rows, quiet)
        for note in quiet.notes:
            self.journal.note(f"{use.spec}: {note}")
        yield Looked(settings, backbone, forward, quiet)

    def enter(self, spec: str) -> Entrant:
        """Opens a candidate once, and measures what it takes.

        Raises:
            BackboneError: it cannot be had, or is out of bounds; the message is the reason.
        """
        use = Use(spec, self.fits[0])
        with self.opened(use) as looked:
            self._know(spec, use, looked)
            untrained = entrants.looks_untrained(spec, looked.backbone)
            if untrained:
                self.journal.note(
                    f"{spec}: many of its normalisation layers hold the values that training starts from, so these "
                    "weights look untrained; is it the right file?"
                )
            prior = entrants.prior_of(spec, untrained=untrained)
            return Entrant(spec, spec, entrants.work_of(spec, looked.backbone), prior)

    def _know(self, name: str, use: Use, looked: Looked) -> None:
        info = looked.backbone.info
        if fault := self.bounds.too_large(info):
            raise BackboneError(fault)
        cost = self._cost(use, looked) if self.timed else Cost(math.nan, math.nan)
        self.uses[name] = replace(use, info=info, cost=cost)
        if fault := self.bounds.too_slow(cost):
            raise BackboneError(fault)

    def _cost(self, use: Use, looked: Looked) -> Cost:
        files = [self.catalog.entries[i].path for i in self.rows[:8]]
        preprocess = looked.backbone.preprocess.with_fit(use.fit)
        return entrants.measure_cost(looked.forward, preprocess, files, looking.limits_of(self.settings))

    def speed(self, entrant: Entrant) -> float | None:
        """Seconds a picture takes where all cores are at work, decoding included; None if it was never asked."""
        parts = [self.speed(part) for part in entrant.parts]
        if parts:
            return None if None in parts else sum(part for part in parts if part is not None)
        use = self.uses[entrant.name]
        if entrant.name not in self.seconds or use.cost is None:
            return None
        # what was kept from earlier took no time here, but a picture on its own did
        return max(self.seconds[entrant.name], use.cost.whole / cores())

    def variants(self, entrant: Entrant) -> Iterable[Entrant]:
        """Other input sizes, layers and fits of a network."""
        use = self.uses[entrant.name]
        try:
            backbone = find(use.spec, architecture=self.settings.architecture or None)
        except GraftageError:
            return
        own = backbone.preprocess.size
        for spec in entrants.other_uses(use.spec, backbone, layers=not self.whole):
            self.uses[spec] = Use(spec, use.fit)
            work = entrant.work * ((parse(spec).size or own) / own) ** 2
            gap = entrants.use_gap(spec, own, use.fit) - entrants.USES[use.fit]
            way = entrants.way_of(spec, own, use.fit, use.fit)
            yield replace(entrant, name=spec, work=work, gap=gap, way=way)
        for fit in self.fits[1:]:
            name = f"{entrant.name} {fit}"
            self.uses[name] = Use(use.spec, fit)
            yield replace(entrant, name=name, gap=entrants.USES[fit] - entrants.USES[use.fit], way=fit)

    def joined(self, a: Entrant, b: Entrant) -> Entrant | None:
        """Two networks that look at the same square; None where that cannot be or costs too much."""
        one, two = self.uses[a.name], self.uses[b.name]
        first, second = parse(one.spec), parse(two.spec)
        if self.whole or one.info is None or two.info is None or one.cost is None or two.cost is None:
            return None
        if {*first.ids} & {*second.ids} or one.fit != two.fit or (first.layers, second.layers) != (1, 1):
            return None
        weights = entrants.megabytes(one.info) + entrants.megabytes(two.info)
        if self._size(one) != self._size(two) or weights > self.bounds.megabytes:
            return None
        both = replace(first, ids=(*first.ids, *second.ids))
        cost = one.cost.beside(two.cost)
        if self.bounds.too_slow(cost):
            return None
        info = replace(
            one.info,
            id=both.spec,
            licence=" AND ".join(dict.fromkeys((one.info.licence, two.info.licence))),
            parameters=one.info.parameters + two.info.parameters,
        )
        name = both.spec if one.fit == self.fits[0] else f"{both.spec} {one.fit}"
        self.uses[name] = Use(both.spec, one.fit, info, cost)
        return Entrant(name, name, a.work + b.work, min(a.foreseen, b.foreseen), parts=(a, b))

    def _size(self, use: Use) -> int:
        assert use.info is not None
        return parse(use.spec).size or use.info.input_size

    def answer(self, ask: Ask) -> Sounding | str | None:
        """How it does; a text if the network cannot be had; None if there is no time left."""
        if time.monotonic() > self.deadline:
            return None
        try:
            X = self.features(ask.entrant, self.rows[ask.rows])
        except GraftageError as error:
            return _without_name(str(error), ask.entrant.name)
        return sound(X, ask.y, ask.groups, ask.held, seed=self.settings.seed)

    def features(self, entrant: Entrant, rows: Ints) -> NDArray[np.float32]:
        """Features (m, D) of catalog entries. Raises BackboneError where one of them cannot be decoded for it."""
        if entrant.parts:
            return np.concatenate([transform(self.features(part, rows), "unit") for part in entrant.parts], axis=1)
        use = self.uses[entrant.name]
        with self.opened(use) as looked:
            if use.cost is None:
                self._know(entrant.name, use, looked)
            start = time.perf_counter()
            _, kept, (X,) = looked.features(self.catalog, rows, [use.fit])
            spent = time.perf_counter() - start
        if len(kept) < len(rows):
            raise BackboneError(f"{len(rows) - len(kept):,} of {len(rows):,} pictures gave no features")
        self.seconds[entrant.name] = max(self.seconds.get(entrant.name, 0.0), spent / len(rows))
        return X


def open_course(
    settings: Settings, catalog: Catalog, split: Partition, journal: Journal, *, bounds: Bounds, started: float
) -> Course:
    """The pictures that are learnt from, and nothing of those that are tested on; with the settings' budget.

    Args:
        started: `time.monotonic` when the command began.
    """
    fits, seconds = entrants.best_first(looking.fits_of(settings, catalog, split.train)), settings.seconds()
    allowed = math.inf if seconds is None else seconds
    return Course(settings, catalog, split.train, bounds, journal, fits, started + allowed, allowed)


def closed(settings: Settings, catalog: Catalog, split: Partition, journal: Journal) -> Catalog:
    """The catalog once the leak gate has been through it, as training does with the default network."""
    backbone, forward = looking.open_network(settings, catalog, split.train, journal)
    return Looked(settings, backbone, forward, journal).gate(catalog)[0]


def choose(looked: Looked, catalog: Catalog, split: Partition, *, deadline: float = math.inf) -> Ranking:
    """The network for a training run, among all that are at hand, by the pictures that it will learn from.

    Where the score will come from cross-validation on these very pictures, the last round takes all of them, so that
    the corrected estimate can see the choice.

    Args:
        looked: the settings and the journal; its network does not matter.
        catalog: after the gate.
        split: pictures that are tested on are not looked at.
        deadline: `time.monotonic` at which the race ends.

    Raises:
        OptionError: there was no time for a single candidate.
        BackboneError: every candidate failed.
    """
    settings = looked.settings
    course = Course(
        replace(settings, img_size=None, layers=1),
        catalog,
        split.train,
        Bounds(),
        looked.journal,
        entrants.best_first(looking.fits_of(settings, catalog, split.train))[
            :1
        ],  # the fit is chosen next, for this network
        deadline,
        timed=False,
        whole=settings.recipe != "linear",
    )
    return rank(course, entrants.AUTO, everything=split.kind == "cross-validation")


def rank(course: Course, candidates: str, *, scores: bool = False, everything: bool = False) -> Ranking:
    """Races the candidates on a course.

    Args:
        candidates: "auto", or ids joined by commas.
        scores: also the published scores of those that are ranked.
        everything: the last round takes all pictures, so that a corrected estimate can see the choice.

    Raises:
        OptionError: no candidate, or a budget too small for any.
        BackboneError: every candidate failed; the message says why each.
    """
    names, out = entrants.named(candidates), list[tuple[str, str]]()
    field, late = _enter(course, names, out)
    if not field:
        raise _nobody(course, out, late)
    y, groups = course.catalog.labels()[course.rows], groups_of(course.catalog)[course.rows]
    if len(np.unique(groups)) < 2:
        raise DataError(
            "all pictures to learn from are one group, or copies of one file: nothing can be compared on them"
        )
    with course.journal.stage("race"):
        raced = _drive(course, field, y, groups, everything=everything)
    if raced.winner.trial is None:
        raise _nobody(course, out + [(p.entrant.name, p.reason) for p in raced.places], late)
    rows = course.rows[raced.rows]
    found = {}
    if scores:
        with course.journal.stage("scores"):
            found = {p.entrant.name: _scored(course, p.entrant, raced) for p in raced.places if p.fate == "ranked"}
    seconds = {place.entrant.name: course.speed(place.entrant) for place in raced.places}
    known = {name: each for name, each in found.items() if each is not None}
    return Ranking(raced, course.uses, tuple(out), rows, groups[raced.rows], seconds, known)


def _enter(course: Course, names: list[str], out: list[tuple[str, str]]) -> tuple[list[Entrant], list[str]]:
    """Those that can race, and the names of those for which there was no time; reasons go into `out`."""
    field, late = list[Entrant](), list[str]()
    with course.journal.stage("open every candidate once"):
        for i, name in enumerate(names):
            course.journal.watcher.progress(i, len(names))
            if time.monotonic() > course.deadline:
                late.append(name)
                out.append((name, "no time was left to open it"))
                continue
            try:
                field.append(course.enter(name))
            except GraftageError as error:
                out.append((name, _without_name(str(error), name)))
    return field, late


def _without_name(said: str, name: str) -> str:
    """What is said of a network, in a line that has its name in front already."""
    return said.removeprefix(f"backbone {name}: ").removeprefix(f"{name}: ")


def _nobody(course: Course, out: list[tuple[str, str]], late: list[str]) -> GraftageError:
    if late or time.monotonic() > course.deadline:
        spent = time.monotonic() - course.deadline + course.allowed
        needed = 1.2 * spent + _OPENING * len(late) + 1
        return OptionError(
            f"the budget is too small for any of {len(out) or len(course.uses)} candidates: after {spent:.1f} s none "
            f"was measured; about {math.ceil(needed)}s would do, or name fewer; "
            "features and copies that were computed are kept, so the same again takes less"
        )
    told = "".join(f"\n  {name}: {why}" for name, why in out)
    bounds = {"--max-latency": course.bounds.latency, "--max-size": course.bounds.megabytes}
    given = [flag for flag, bound in bounds.items() if math.isfinite(bound)]
    more = f", or allow more with {' and '.join(given)}" if given else ""
    return BackboneError(
        f"none of the candidates can be used:{told}\nName others (`graftage backbones` lists them){more}"
    )


def _drive(course: Course, field: list[Entrant], y: Ints, groups: Ints, *, everything: bool) -> Raced:
    last = len(y) if everything else None
    pictures = round_sizes(len(y), len(np.unique(y)), last)[-1]
    ways = 3 + len(course.fits)  # as pretrained, two sizes, two layers, other fits
    whole = sum(entrant.work for entrant in field)
    most = max(SHARE * ways * len(y) * whole, 1.01 * min(pictures, ENOUGH) * whole / SINGLES)
    if everything:  # then rivals must be seen to the end
        most = max(most, TO_THE_END * len(y) * whole)
    if math.isfinite(course.allowed):  # then time is what limits it
        most = math.inf
    seed, variants, joined = course.settings.seed, course.variants, course.joined
    questions = race(field, y, groups, seed=seed, most=most, variants=variants, joined=joined, last=last)
    try:
        ask = next(questions)
        while True:
            course.journal.watcher.row(f"{ask.entrant.name}: {len(ask.rows):,} pictures")
            ask = questions.send(course.answer(ask))
    except StopIteration as done:
        raced: Raced = done.value
        return raced


def _scored(course: Course, entrant: Entrant, raced: Raced) -> Transferability | None:
    if time.monotonic() > course.deadline:
        return None
    X = course.features(entrant, course.rows[raced.rows])
    groups = groups_of(course.catalog)[course.rows][raced.rows]
    return transferability(X, raced.y, groups, raced.held, seed=course.settings.seed)
