"""The tournament of pretrained networks: a cheap head, held out, on ever more of the pictures, until one stands out.

`race` is a generator that asks for what it wants to know, one entrant on some rows at a time, and is told how it
does there; who computes features, and from where, is not its business. Entrants are networks as they were pretrained,
cropped, and other ways of using them (input size, layers, squash or pad). Each is looked at on a stratified part of the
pictures, then on twice as many that hold these, and so on to the last round; an error rate is compared, picture by
picture (`Sounding`).

What is believed of all of them (`belief`) starts from a static prior and is brought up to date after every answer. The
next to be asked about is the one whose next round is worth most for its work: by how much the best is expected to get
better, over the work to the power of `THRIFT`. An entrant that is better than the leader with probability below
`HOPELESS`, as is believed and by the paired differences alone, is not asked about any more. When most of the work is
spent, the two best of different networks are tried side by side; they have won if the paired gain is more than one
standard error. If not, what is left of the work goes to single networks.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import ndtr

from graftage.data.split import folds, locked_test
from graftage.errors import OptionError
from graftage.learn.belief import SCALE, Belief, believe
from graftage.learn.entries import Answer, Ask, Entrant, Fate, Joined, Place, Questions, Raced, Sounding, Variants
from graftage.learn.gram import Labels

HOPELESS = 0.05  # chance of being better than the leader below which an entrant is dropped
FIRST = 50  # pictures of the first round, at least, and two of each class
LAST = 1000  # pictures of the last round, at most, or 15 of each class
THRIFT = 0.75  # power of the work by which what a round is worth is divided
SINGLES = 0.85  # share of the work that single networks may take before two are tried side by side
_FOLDS, _REPEATS, _DRAWS = 5, 2, 4000


def none_of(_: Entrant) -> tuple[Entrant, ...]:
    """No variants."""
    return ()


def no_pair(_: Entrant, __: Entrant) -> None:
    """No pair."""
    return


def race(
    entrants: Sequence[Entrant],
    y: Labels,
    groups: Labels,
    *,
    seed: int,
    most: float = np.inf,
    variants: Variants = none_of,
    joined: Joined = no_pair,
    last: int | None = None,
) -> Questions:
    """Asks, is told, and returns the ranking; the same answers and seed give the same ranking.

    Args:
        entrants: the networks as they were pretrained; names differ.
        y: int64 (n,) classes of the pictures.
        groups: int64 (n,), what must not be torn apart.
        seed: of the rounds' pictures, the folds and the draws of who is the best.
        most: work that may be spent.
        variants: other ways of using a network, asked for once.
        joined: two networks side by side, None where they do not go together.
        last: pictures of the last round; None takes the rule of `LAST`.

    Returns:
        The ranking. An answer that is a text is the reason for which an entrant is out; None says that there is no time
        for it nor anything else, and the ranking is made of what is known.

    Raises:
        OptionError: `most` does not cover the first round of a single entrant.
    """
    known = _Field(y, groups, seed, most, last)
    known.require_work(entrants)
    known.enter([*entrants, *(variant for entrant in entrants for variant in variants(entrant))])
    yield from known.run(SINGLES * most)
    yield from known.pair(joined)
    if known.both is None or not known.both.pays:
        yield from known.run(most)
    return known.result()


def round_sizes(n: int, n_classes: int, last: int | None = None) -> tuple[int, ...]:
    """Pictures of each round: from `FIRST` to the last one, each about twice those before.

    >>> round_sizes(100, 2), round_sizes(1000, 10), round_sizes(20, 4)
    ((50, 100), (50, 106, 224, 473, 1000), (20,))
    """
    last = min(n, last or max(LAST, 15 * n_classes))
    first = max(FIRST, 2 * n_classes)
    steps = max(round(np.log2(last / first)), 0)
    return tuple(round(last * (first / last) ** (i / max(steps, 1))) for i in reversed(range(steps + 1)))


def nested(y: Labels, groups: Labels, sizes: Sequence[int], *, seed: int) -> list[Labels]:
    """Rows of each round (about m,), rising: stratified, no group torn, each round within the next."""
    rows, found = np.arange(len(y)), list[Labels]()
    for i, size in enumerate(reversed(sizes)):
        if size < len(rows):
            rng = np.random.default_rng([seed, 12, i])
            part = locked_test(y[rows], groups[rows], fraction=size / len(rows), rng=rng).test
            rows = rows[part] if len(np.unique(y[rows[part]])) > 1 else rows
        found.append(rows)
    return found[::-1]


@dataclass(eq=False)
class _Runner:
    """An entrant on its way: its soundings by round, and why it is out, if it is."""

    entrant: Entrant
    soundings: list[Sounding] = field(default_factory=list)
    failed: str = ""

    @property
    def last(self) -> int:
        """The last round that it was measured in, -1 if none."""
        return len(self.soundings) - 1


class _Field:
    """What is known so far, and the rules."""

    def __init__(self, y: Labels, groups: Labels, seed: int, most: float, last: int | None) -> None:
        self.seed, self.most, self.spent = seed, most, 0.0
        self.rounds = nested(y, groups, round_sizes(len(y), len(np.unique(y)), last), seed=seed)
        self.labels = [np.unique(y[rows], return_inverse=True)[1].astype(np.int64) for rows in self.rounds]
        self.groups = [np.unique(groups[rows], return_inverse=True)[1].astype(np.int64) for rows in self.rounds]
        self.counts = [int(own.max()) + 1 for own in self.groups]
        self.held = [self._folds(i) for i in range(len(self.rounds))]
        self.runners = list[_Runner]()
        self.both: _Both | None = None
        self.over = False  # whether there is no time left

    def _folds(self, i: int) -> Labels:
        rng = np.random.default_rng([self.seed, 13, i])
        return folds(self.labels[i], self.groups[i], k=min(_FOLDS, self.counts[i]), repeats=_REPEATS, rng=rng)

    def require_work(self, entrants: Sequence[Entrant]) -> None:
        """Raises OptionError where not even one entrant can run the first round."""
        least = min(entrant.work for entrant in entrants) * len(self.rounds[0])
        if SINGLES * self.most < least:
            raise OptionError(
                f"the work allowed is too little for any network: the cheapest takes {least / SINGLES:.3g} for the "
                f"first round, {self.most:.3g} are allowed"
            )

    def enter(self, entrants: Sequence[Entrant]) -> None:
        """Those that take part."""
        self.runners += [_Runner(entrant) for entrant in entrants]
        assert len({runner.entrant.name for runner in self.runners}) == len(self.runners), "an entrant takes part twice"

    def run(self, most: float) -> Generator[Ask, Answer, None]:
        """Asks about one after the other, until that much work is spent or nothing is left to ask."""
        while not self.over and (runner := self._next(most)):
            yield from self._ask(runner, runner.last + 1)

    def _next(self, most: float) -> _Runner | None:
        """Whom to ask about next; None if nobody is left whose next round the work covers."""
        racing, belief = self._believed()
        found, highest = None, 0.0
        for j, runner in enumerate(racing):
            i = runner.last + 1
            if i == len(self.rounds) or self._hopeless(racing, belief, j, belief.leader):
                continue
            if (price := self._price(runner, i)) > most - self.spent:
                continue
            worth = belief.worth(j, self.counts[i - 1] if i else 0, self.counts[i]) / max(price, 1e-12) ** THRIFT
            if found is None or worth > highest:
                found, highest = runner, worth
        return found

    def _believed(self) -> tuple[list[_Runner], Belief]:
        """Those that have not failed, and what is believed of them."""
        racing = [runner for runner in self.runners if not runner.failed]
        scores = [[sounding.scores for sounding in runner.soundings] for runner in racing]
        return racing, believe([runner.entrant for runner in racing], scores, self.counts)

    def _hopeless(self, racing: Sequence[_Runner], belief: Belief, j: int, against: int) -> bool:
        """Whether entrant j is hardly ever better than another: as is believed, and by what was measured, too.

        What is known beforehand throws no network out before it was seen, but other ways of using one it does.
        """
        own, other = racing[j], racing[against]
        if own is other or belief.better(j, against) >= HOPELESS:
            return False
        if not own.soundings or not other.soundings:
            return own.entrant.network != own.entrant.name
        i = min(own.last, other.last)
        gains = other.soundings[i].scores - own.soundings[i].scores
        error = float(gains.std()) / np.sqrt(self.counts[i])
        return bool(ndtr(gains.mean() / max(error, 1e-12)) < HOPELESS)

    def _price(self, runner: _Runner, i: int) -> float:
        """Work for those of an entrant's rows in this round that have not been paid for yet."""
        parts = runner.entrant.parts or (runner.entrant,)
        known = {r.entrant.name: len(self.rounds[r.last]) for r in self.runners if r.soundings}
        return sum(part.work * max(len(self.rounds[i]) - known.get(part.name, 0), 0) for part in parts)

    def _ask(self, runner: _Runner, i: int) -> Generator[Ask, Answer, None]:
        """How it does in round i."""
        price = self._price(runner, i)
        answer = yield Ask(runner.entrant, self.rounds[i], self.labels[i], self.groups[i], self.held[i], price)
        if answer is None:
            self.over = True
            return
        self.spent += price
        if isinstance(answer, str):
            runner.failed = answer
        else:
            runner.soundings.append(answer)

    def pair(self, joined: Joined) -> Generator[Ask, Answer, None]:
        """The best one beside the best of another network, unless the work does not cover it."""
        racing, belief = self._believed()
        order = [racing[j] for j in np.argsort(belief.mean, kind="stable") if racing[j].soundings]
        other = next((r for r in order if r.entrant.network != order[0].entrant.network), None)
        if self.over or other is None or (entrant := joined(order[0].entrant, other.entrant)) is None:
            return
        i, price = order[0].last, self._price(_Runner(entrant), order[0].last)
        if price > self.most - self.spent:
            return
        answer = yield Ask(entrant, self.rounds[i], self.labels[i], self.groups[i], self.held[i], price)
        if answer is not None:
            self.spent += price
            self.both = _Both(entrant, order[0].entrant, order[0].soundings[i], answer)

    def result(self) -> Raced:
        """Everyone in order."""
        racing, belief = self._believed()
        chances = belief.best(_DRAWS, np.random.default_rng([self.seed, 14])) if racing else np.zeros(0)
        measured = [j for j in np.argsort(belief.mean, kind="stable").tolist() if racing[j].soundings]
        at = racing[measured[0]].last if measured else 0
        places = list[Place]()
        for j in measured:
            fate, reason = self._fate(racing, belief, j, at, measured[0])
            best = belief.better(j, measured[0]) if fate == "dropped" else float(chances[j])
            shown = racing[j].soundings[min(at, racing[j].last)]
            places.append(self._place(racing[j], fate, reason, shown, SCALE * float(belief.mean[j]), best))
        places.sort(key=lambda place: ("ranked", "left out", "dropped").index(place.fate))
        places += [
            self._place(racing[j], "left out", "what was allowed was spent on others", None, best=float(chances[j]))
            for j, runner in enumerate(racing)
            if not runner.soundings and runner.entrant.network == runner.entrant.name
        ]
        places += [self._place(r, "failed", r.failed, None) for r in self.runners if r.failed]
        if self.both is not None:
            places = self.both.among(places)
        sizes = tuple(len(rows) for rows in self.rounds)
        return Raced(tuple(places), self.rounds[at], self.labels[at], self.held[at], self.spent, sizes)

    def _fate(self, racing: Sequence[_Runner], belief: Belief, j: int, at: int, winner: int) -> tuple[Fate, str]:
        after = f"after {len(self.rounds[racing[j].last]):,} pictures"
        if self._hopeless(racing, belief, j, winner):
            return "dropped", f"{after} hardly ever better than {racing[winner].entrant.name}"
        if racing[j].last < at:
            return "left out", f"{after} what was allowed was spent"
        return "ranked", ""

    def _place(
        self,
        runner: _Runner,
        fate: Fate,
        reason: str,
        shown: Sounding | None,
        expected: float = float("inf"),
        best: float = float("nan"),
    ) -> Place:
        pictures = len(self.rounds[runner.last]) if runner.soundings else 0
        return Place(runner.entrant, fate, reason, pictures, shown, expected, best)


@dataclass(frozen=True, eq=False)
class _Both:
    """Two networks side by side, and the better one of them alone, in one round."""

    entrant: Entrant
    alone: Entrant
    before: Sounding
    answer: Sounding | str

    @property
    def pays(self) -> bool:
        """Whether the gain is more than its standard error."""
        gain, error = self._gain()
        return gain > error

    def _gain(self) -> tuple[float, float]:
        """The gain in mean score, and its standard error."""
        if isinstance(self.answer, str):
            return 0.0, 0.0
        gains = self.before.scores - self.answer.scores
        return float(gains.mean()), float(gains.std(ddof=1) / np.sqrt(len(gains)))

    def among(self, places: Sequence[Place]) -> list[Place]:
        """The places with that of the pair: before all others if it pays."""
        nothing, name = float("nan"), self.alone.name
        if isinstance(self.answer, str):
            return [*places, Place(self.entrant, "failed", self.answer, 0, None, float("inf"), nothing)]
        pictures, (gain, error) = len(self.answer.scores), self._gain()
        if self.pays:
            better = float(ndtr(gain / max(error, 1e-12)))
            rest = [p if p.fate == "dropped" else replace(p, best=p.best * (1 - better)) for p in places]
            first = Place(self.entrant, "ranked", "", pictures, self.answer, places[0].expected - gain, better)
            return [first, *rest]
        ranked = sum(place.fate == "ranked" for place in places)
        reason, expected = f"no real gain over {name} alone", float(self.answer.scores.mean())
        lost = Place(self.entrant, "dropped", reason, pictures, self.answer, expected, nothing)
        return [*places[:ranked], lost, *places[ranked:]]
