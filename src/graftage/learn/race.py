"""The tournament of pretrained networks: a cheap head, held out, on ever more of the pictures, until one stands out.

`race` is a generator that asks for what it wants to know, one entrant on some rows at a time, and is told how it
does there; who computes features, and from where, is not its business. Three heats share one allowance of work:

a. the networks as they were pretrained, cropped, on a growing stratified part of the pictures, until few are left;
b. other ways of using the best of them (input size, layers, squash or pad), on the same pictures;
c. the two best different networks side by side, offered only where the paired gain is more than one standard error.

What is compared is an error rate picture by picture (`Sounding`). To the m pictures measured a static prior is added as
if it were `PRIOR` more, so that few pictures do not overturn what is known of networks in general; and what a way of
using a network adds to its own way is known better than which network is best, so it counts as `USE` more. An entrant
that is better than the leader with probability below `HOPELESS` (paired bootstrap over groups), with the prior and
without, is dropped, but the prior's favourite stays to the last round (Renggli et al. 2022). A round that the work left
does not cover is run with fewer entrants, the best ones.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np

from graftage.data.split import folds, locked_test
from graftage.errors import OptionError
from graftage.learn.entries import Answer, Ask, Entrant, Fate, Joined, Place, Questions, Raced, Sounding, Variants
from graftage.learn.gram import Floats, Labels

PRIOR = 20  # pictures that the prior counts as; 50 did no better on sign-digits and hymenoptera (bench/choose.py)
USE = 150  # the same for ways of using a network: what they add varies less between networks and sets (by a point)
HOPELESS = 0.05  # chance of being better than the leader below which an entrant is dropped
FIRST = 24  # pictures of the first round, at least, and two of each class
LAST = 1000  # pictures of the last round, at most, or 15 of each class
NETWORKS = 0.9  # share of the work that the networks as they were pretrained may take before their variants are tried
LEADERS = 2  # networks whose variants are tried
_FOLDS, _REPEATS, _DRAWS = 5, 2, 1000


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
        seed: of the rounds' pictures, the folds and the bootstrap.
        most: work that may be spent.
        variants: other ways of using a network.
        joined: two networks side by side, None where they do not go together.
        last: pictures of the last round; None takes the rule of `LAST`.

    Returns:
        The ranking. An answer that is a text is the reason for which an entrant is out; None says that there is no time
        for it nor anything else, and the ranking is made of what is known.

    Raises:
        OptionError: `most` does not cover the first round of a single entrant.
    """
    heats = _Heats(y, groups, seed, most, last)
    heats.require_work(entrants)
    yield from heats.run(entrants, NETWORKS * most, enough=LEADERS)
    more = [variant for leader in heats.leaders() for variant in variants(leader)]
    yield from heats.run(more, most)
    yield from heats.pair(joined)
    return heats.result()


def round_sizes(n: int, n_classes: int, last: int | None = None) -> tuple[int, ...]:
    """Pictures of each round: from the last one down by halves, as long as there are enough.

    >>> round_sizes(100, 2), round_sizes(1000, 10), round_sizes(20, 4)
    ((25, 50, 100), (31, 62, 125, 250, 500, 1000), (20,))
    """
    sizes = [min(n, last or max(LAST, 15 * n_classes))]
    while sizes[-1] // 2 >= max(FIRST, 2 * n_classes):
        sizes.append(sizes[-1] // 2)
    return tuple(reversed(sizes))


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
    """An entrant on its way: its soundings by round, and what became of it."""

    entrant: Entrant
    soundings: dict[int, Sounding] = field(default_factory=dict)
    fate: Fate = "ranked"
    reason: str = ""
    best: float = float("nan")

    @property
    def racing(self) -> bool:
        return self.fate == "ranked"

    @property
    def last(self) -> int:
        """The last round that it was measured in, -1 if none."""
        return max(self.soundings, default=-1)

    def scores(self, i: int) -> Floats:
        """Those of round i, (m,)."""
        return self.soundings[i].scores

    def out(self, fate: Fate, reason: str) -> None:
        self.fate, self.reason = fate, reason


def _shrunk(means: Floats, base: Labels, prior: Floats, gap: Floats, m: int) -> Floats:
    """(…, E) mean scores of m pictures with what is known beforehand.

    Args:
        means: (…, E); base: (E,) the place of the network whose variant each is, its own for a network itself.
        prior: (…, E) of networks, whose common level is that measured; gap: (…, E) of variants, 0 for a network.
        m: pictures.
    """
    own = base == np.arange(len(base))
    level = (means - prior)[..., own].mean(axis=-1, keepdims=True)
    alone = (m * means + PRIOR * (level + prior)) / (m + PRIOR)
    more = (m * (means - means[..., base]) + USE * gap) / (m + USE)
    return np.asarray(alone[..., base] + more)


class _Heats:
    """What is known so far, and the rules."""

    def __init__(self, y: Labels, groups: Labels, seed: int, most: float, last: int | None) -> None:
        self.seed, self.most, self.spent = seed, most, 0.0
        self.rounds = nested(y, groups, round_sizes(len(y), len(np.unique(y)), last), seed=seed)
        self.labels = [np.unique(y[rows], return_inverse=True)[1].astype(np.int64) for rows in self.rounds]
        self.groups = [np.unique(groups[rows], return_inverse=True)[1].astype(np.int64) for rows in self.rounds]
        self.held = [self._folds(i) for i in range(len(self.rounds))]
        self.runners = list[_Runner]()
        self.at = -1  # the last round that has been run
        self.over = False  # whether there is no time left

    def _folds(self, i: int) -> Labels:
        k = min(_FOLDS, int(self.groups[i].max()) + 1)
        rng = np.random.default_rng([self.seed, 13, i])
        return folds(self.labels[i], self.groups[i], k=k, repeats=_REPEATS, rng=rng)

    def require_work(self, entrants: Sequence[Entrant]) -> None:
        """Raises OptionError where not even one entrant can run the first round."""
        least = min(entrant.work for entrant in entrants) * len(self.rounds[0])
        if NETWORKS * self.most < least:
            raise OptionError(
                f"the work allowed is too little for any network: the cheapest takes {least / NETWORKS:.3g} for the "
                f"first round, {self.most:.3g} are allowed"
            )

    def run(self, entrants: Sequence[Entrant], most: float, *, enough: int = 0) -> Generator[Ask, Answer, None]:
        """Takes new entrants through the rounds, beside those that are still racing, until so few are left."""
        self.runners += [_Runner(entrant) for entrant in entrants]
        assert len({runner.entrant.name for runner in self.runners}) == len(self.runners), "an entrant takes part twice"
        for i in range(len(self.rounds)):
            waiting = [r for r in self.runners if r.racing and i not in r.soundings]
            if not self._admit(waiting, i, most - self.spent):
                return
            for runner in waiting:
                if runner.racing and not self.over:
                    yield from self._ask(runner, i)
            if self.over and self.at >= 0:
                return
            self.at = max(self.at, i)
            self._drop(i)
            if len(self._measured(i)) <= enough:
                return

    def _admit(self, waiting: Sequence[_Runner], i: int, left: float) -> bool:
        """Leaves the worst out of a round until the work covers it; False where it does not cover the best two."""
        standing = self._standing(max(i - 1, 0))
        favourite = self._favourite()
        first = min(waiting, key=lambda r: standing.get(id(r), r.entrant.foreseen), default=None)

        def order(r: _Runner) -> tuple[bool, bool, float, float]:
            return r is not first, r is not favourite, standing.get(id(r), r.entrant.foreseen), r.entrant.work

        prices = [self._price(runner, i) for runner in sorted(waiting, key=order)]
        if self.over or (i > self.at >= 0 and sum(prices[:2]) > left):  # a round for the best one alone tells nothing
            return False
        for runner in sorted(waiting, key=order):
            price = self._price(runner, i)
            if price <= left:
                left -= price
            else:
                runner.out(
                    "left out", f"the work allowed was spent before its round of {len(self.rounds[i]):,} pictures"
                )
        return True

    def _price(self, runner: _Runner, i: int) -> float:
        """Work for those of an entrant's rows in this round that have not been paid for yet."""
        parts = runner.entrant.parts or (runner.entrant,)
        known = {r.entrant.name: len(self.rounds[r.last]) for r in self.runners if r.soundings}
        return sum(part.work * max(len(self.rounds[i]) - known.get(part.name, 0), 0) for part in parts)

    def _ask(self, runner: _Runner, i: int) -> Generator[Ask, Answer, None]:
        price = self._price(runner, i)
        answer = yield Ask(runner.entrant, self.rounds[i], self.labels[i], self.groups[i], self.held[i], price)
        if answer is None:
            self.over = True
            return
        self.spent += price
        if isinstance(answer, str):
            runner.out("failed", answer)
        else:
            runner.soundings[i] = answer

    def _favourite(self) -> _Runner | None:
        """The one of which most was expected, if there is one."""
        known = sorted((r for r in self.runners if r.fate != "failed"), key=lambda r: r.entrant.foreseen)
        unique = len(known) < 2 or known[0].entrant.foreseen < known[1].entrant.foreseen
        return known[0] if known and unique and known[0].racing else None

    def _measured(self, i: int) -> list[_Runner]:
        return [runner for runner in self.runners if runner.racing and i in runner.soundings]

    def _standing(self, i: int) -> dict[int, float]:
        """What is expected of each that was measured in this round and is still racing, by identity."""
        racing = self._measured(i)
        return dict(zip(map(id, racing), self._expected(racing, i).tolist(), strict=True))

    def _expected(self, racing: Sequence[_Runner], i: int) -> Floats:
        """(E,) scores shrunk to what is known beforehand, whose level is that of these entrants."""
        if not racing:
            return np.zeros(0)
        columns, base, prior, gap = self._beforehand(racing, i)
        means = np.array([r.scores(i).mean() for r in columns])
        return _shrunk(means, base, prior, gap, len(self.rounds[i]))[: len(racing)]

    def _beforehand(self, racing: Sequence[_Runner], i: int) -> tuple[list[_Runner], Labels, Floats, Floats]:
        """Those racing, and after them whose variants they are; the place of the latter, priors and gaps."""
        own = {r.entrant.name: r for r in self.runners if i in r.soundings}
        whose = [own.get(r.entrant.network, r) for r in racing]
        columns = list(dict.fromkeys([*racing, *whose]))
        base = np.array([columns.index(b) for b in (*whose, *columns[len(racing) :])], dtype=np.int64)
        alone = base == np.arange(len(columns))
        priors = np.array([r.entrant.foreseen if a else r.entrant.prior for r, a in zip(columns, alone, strict=True)])
        return columns, base, priors, np.where(alone, 0.0, [r.entrant.gap for r in columns])

    def _drawn(self, racing: Sequence[_Runner], i: int) -> tuple[Floats, Floats]:
        """(draws, E) mean scores, the groups of pictures drawn anew; and the expected scores that go with them.

        In the latter what is known beforehand is as uncertain as the number of pictures that it counts as makes it.
        """
        columns, base, prior, gap = self._beforehand(racing, i)
        S = np.stack([r.scores(i) for r in columns], axis=1)  # (m, E)
        group, m = self.groups[i], len(S)
        count = int(group.max()) + 1
        sums, sizes = np.zeros((count, S.shape[1])), np.bincount(group, minlength=count).astype(np.float64)
        np.add.at(sums, group, S)
        rng = np.random.default_rng([self.seed, 14, i])
        taken = rng.multinomial(count, np.full(count, 1 / count), size=_DRAWS).astype(np.float64)
        means = (taken @ sums) / (taken @ sizes)[:, None]
        leader = int(_shrunk(S.mean(axis=0), base, prior, gap, m)[: len(racing)].argmin())
        spread = np.square(S - S[:, [leader]]).mean(axis=0) / 2
        spread[leader] = np.delete(spread, leader).mean() if len(columns) > 1 else 0.0
        prior = prior + rng.standard_normal(means.shape) * np.sqrt(spread / PRIOR)
        apart = np.square(S - S[:, base]).mean(axis=0)  # 0 for those that are their own base
        gap = gap + rng.standard_normal(means.shape) * np.sqrt(apart / USE)
        expected = _shrunk(means, base, prior, gap, m)
        return means[:, : len(racing)], expected[:, : len(racing)]

    def _drop(self, i: int) -> None:
        """Whoever is hardly ever better than the leader is out; the favourite only in the last round.

        Nobody goes by a round that it has left behind: more is known of it already.
        """
        racing = self._measured(i)
        if len(racing) < 2:
            return
        leader, favourite = int(self._expected(racing, i).argmin()), self._favourite()
        drawn = self._drawn(racing, i)
        for j, runner in enumerate(racing):
            # the prior alone throws nobody out: it must be hopeless by what was measured, too
            runner.best = max(float((each[:, j] < each[:, leader]).mean()) for each in drawn)
            spared = runner.last > i or (runner is favourite and i + 1 < len(self.rounds))
            if j != leader and runner.best < HOPELESS and not spared:
                against = racing[leader].entrant.name
                runner.out("dropped", f"{len(self.rounds[i]):,} pictures: hardly ever better than {against}")

    def leaders(self) -> list[Entrant]:
        """The best networks, of those that are still racing."""
        racing = self._measured(self.at)
        order = np.argsort(self._expected(racing, self.at), kind="stable")
        return [racing[j].entrant for j in order[:LEADERS]]

    def pair(self, joined: Joined) -> Generator[Ask, Answer, None]:
        """The best two of different networks side by side; out again unless the gain exceeds its standard error."""
        here = [r for r in self.runners if self.at in r.soundings and r.fate != "failed"]
        known = sorted(here, key=lambda r: float(r.scores(self.at).mean()))
        standing = self._standing(self.at)
        best = min(self._measured(self.at), key=lambda r: standing[id(r)], default=None)
        other = next((r for r in known if best and r.entrant.network != best.entrant.network), None)
        entrant = joined(best.entrant, other.entrant) if best and other else None
        if best is None or entrant is None or self.over:
            return
        runner = _Runner(entrant)
        if self._price(runner, self.at) > self.most - self.spent:
            return
        self.runners.append(runner)
        yield from self._ask(runner, self.at)
        if runner.racing:
            gain = best.scores(self.at) - runner.scores(self.at)
            if gain.mean() <= gain.std(ddof=1) / np.sqrt(len(gain)):
                runner.out("dropped", f"no real gain over {best.entrant.name} alone")

    def result(self) -> Raced:
        """Everyone in order."""
        racing = self._measured(self.at)
        expected = self._expected(racing, self.at)
        drawn = self._drawn(racing, self.at)[1].argmin(axis=1) if racing else np.zeros(0, np.int64)
        places = [
            self._place(racing[j], float(expected[j]), float((drawn == j).mean()))
            for j in np.argsort(expected, kind="stable")
        ]
        rest = [r for r in self.runners if r not in racing]
        for runner in rest:
            if runner.racing:  # it would have raced on, had there been work
                runner.out("left out", "the work allowed was spent before another round")
        measured = [r for r in rest if r.soundings and r.fate != "failed"]
        measured.sort(key=lambda r: (-r.last, float(r.scores(r.last).mean())))
        lost = [r for r in rest if r not in measured]
        places += [self._place(r, float(r.scores(r.last).mean()), r.best) for r in measured]
        places += [self._place(r, float("inf"), float("nan")) for r in lost]
        sizes = tuple(len(rows) for rows in self.rounds)
        at = max(self.at, 0)
        return Raced(tuple(places), self.rounds[at], self.labels[at], self.held[at], self.spent, sizes)

    def _place(self, runner: _Runner, expected: float, best: float) -> Place:
        pictures = len(self.rounds[runner.last]) if runner.soundings else 0
        sounding = runner.soundings[runner.last] if runner.soundings else None
        return Place(runner.entrant, runner.fate, runner.reason, pictures, sounding, expected, best)
