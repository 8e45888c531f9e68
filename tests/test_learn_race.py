import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.errors import OptionError
from graftage.learn.entries import Ask, Entrant, Questions, Raced, Sounding, Variants
from graftage.learn.race import SINGLES, nested, race, round_sizes
from graftage.learn.search import Candidate, Trial

SPREAD = 0.15


def sounding(ask: Ask, level: float, seed: int) -> Sounding:
    """How an entrant of this level does, picture by picture; the same picture always fares alike."""
    rng = np.random.default_rng([seed, zlib.crc32(ask.entrant.name.encode())])
    score = np.clip(rng.normal(level, SPREAD, 5000), 0, 1)[ask.rows].astype(np.float32)
    trial = Trial(Candidate("ridge", "", "root", 1.0), 1.0, score, ask.y.astype(np.int32), 2 * score)
    return Sounding(trial, score.astype(np.float64))


class Audience:
    """Drives a race, and remembers every question."""

    def __init__(self, levels: dict[str, float], seed: int = 0) -> None:
        self.levels, self.seed = levels, seed
        self.asked = list[Ask]()

    def run(self, questions: Questions, answer: "Callable[[Ask], Sounding | str | None] | None" = None) -> Raced:
        try:
            ask = next(questions)
            while True:
                self.asked.append(ask)
                ask = questions.send(answer(ask) if answer else self.plain(ask))
        except StopIteration as done:
            return done.value

    def plain(self, ask: Ask) -> Sounding:
        known = [self.levels[part.name] for part in (*ask.entrant.parts, ask.entrant) if part.name in self.levels]
        return sounding(ask, min(known), self.seed)


def pictures(n: int, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(classes, groups) of n pictures, every tenth a copy of the one before."""
    groups = np.arange(n)
    groups[9::10] -= 1
    y = np.random.default_rng(n).integers(0, classes, n)
    y[:classes] = np.arange(classes)
    y[9::10] = y[8::10][: len(y[9::10])]
    return y, groups


def field(levels: Sequence[float], *, work: float = 1.0) -> tuple[list[Entrant], dict[str, float]]:
    names = [f"net{i}" for i in range(len(levels))]
    return [Entrant(name, name, work) for name in names], dict(zip(names, levels, strict=True))


def sizes_of(entrant: Entrant) -> Iterator[Entrant]:
    for size, work in ((160, 0.5), (288, 1.6)):
        yield replace(entrant, name=f"{entrant.name}@{size}", work=entrant.work * work)


# What is promised


@settings(deadline=None, max_examples=40)
@given(
    good=st.lists(st.floats(0.1, 0.25), min_size=1, max_size=3),
    bad=st.lists(st.floats(0.55, 0.8), min_size=1, max_size=6),
    n=st.integers(30, 400),
    seed=st.integers(0, 1000),
)
def test_never_a_decoy(good: list[float], bad: list[float], n: int, seed: int) -> None:
    entrants, levels = field([*bad, *good])
    raced = Audience(levels, seed).run(race(entrants, *pictures(n), seed=seed))
    assert levels[raced.winner.entrant.name] < 0.3


@settings(deadline=None, max_examples=40)
@given(
    levels=st.lists(st.floats(0.1, 0.5), min_size=2, max_size=8),
    n=st.integers(30, 400),
    seed=st.integers(0, 1000),
    share=st.floats(0.3, 1.0),
)
def test_who_is_out_never_returns_and_the_work_is_kept(levels: list[float], n: int, seed: int, share: float) -> None:
    entrants, known = field(levels)
    for entrant in entrants:
        known |= {variant.name: known[entrant.name] - 0.02 for variant in sizes_of(entrant)}
    y, groups = pictures(n)
    most = share * n * len(entrants)
    audience = Audience(known, seed)
    try:
        raced = audience.run(race(entrants, y, groups, seed=seed, most=most, variants=sizes_of))
    except OptionError:
        assert SINGLES * most < round_sizes(n, 3)[0] + 3  # not even one first round
        return
    assert raced.work <= most + 1e-9
    assert raced.work == pytest.approx(sum(ask.work for ask in audience.asked))
    seen: dict[str, int] = {}
    for ask in audience.asked:  # an entrant is asked about ever more pictures, each paid for once
        assert ask.work == pytest.approx(ask.entrant.work * (len(ask.rows) - seen.get(ask.entrant.name, 0)))
        seen[ask.entrant.name] = len(ask.rows)
    for place in raced.places:
        assert place.pictures == seen.get(place.entrant.name, 0)
        assert place.fate != "ranked" or place.pictures >= len(raced.rows)
    assert raced.winner.fate == "ranked"


@settings(deadline=None, max_examples=20)
@given(n=st.integers(30, 300), seed=st.integers(0, 100))
def test_the_same_seed_ranks_the_same(n: int, seed: int) -> None:
    entrants, levels = field([0.3, 0.28, 0.31, 0.6])
    first, second = (Audience(levels, seed).run(race(entrants, *pictures(n), seed=seed)) for _ in range(2))
    assert [(p.entrant, p.fate, p.pictures, p.expected) for p in first.places] == [
        (p.entrant, p.fate, p.pictures, p.expected) for p in second.places
    ]


# The rounds


def test_rounds_lie_in_each_other_and_tear_no_group() -> None:
    y, groups = pictures(400, 5)
    rounds = nested(y, groups, round_sizes(400, 5), seed=1)
    assert [len(rows) for rows in rounds] == pytest.approx([50, 100, 200, 400], abs=3)
    for smaller, larger in pairwise(rounds):
        assert np.isin(smaller, larger).all()
    for rows in rounds:
        inside = np.isin(np.arange(400), rows)
        assert all(inside[groups == g].all() or not inside[groups == g].any() for g in np.unique(groups))
        shares = np.bincount(y[rows], minlength=5) / len(rows)
        assert np.abs(shares - np.bincount(y) / 400).max() < 0.06


def test_all_are_asked_about_the_same_pictures_and_folds() -> None:
    entrants, levels = field([0.3, 0.3, 0.3])
    audience = Audience(levels)
    audience.run(race(entrants, *pictures(60), seed=0))
    for m in {len(ask.rows) for ask in audience.asked}:
        same = [ask for ask in audience.asked if len(ask.rows) == m]
        assert all(np.array_equal(ask.rows, same[0].rows) and np.array_equal(ask.held, same[0].held) for ask in same)
        assert len(same) > 1


# The rules


def test_bad_ones_are_dropped_early() -> None:
    entrants, levels = field([0.2, 0.21, 0.7, 0.75])
    audience = Audience(levels)
    raced = audience.run(race(entrants, *pictures(400), seed=0))
    fates = {p.entrant.name: (p.fate, p.pictures) for p in raced.places}
    assert fates["net2"] == fates["net3"] == ("dropped", 50)
    assert raced.work < 0.6 * 4 * 400


def wins(names: Sequence[Entrant], levels: dict[str, float], n: int, name: str, **more: Variants) -> int:
    """In how many of 20 races, with other luck, an entrant comes in first."""
    races = (Audience(levels, seed).run(race(names, *pictures(n), seed=0, **more)) for seed in range(20))
    return sum(raced.winner.entrant.name == name for raced in races)


def test_few_pictures_do_not_overturn_the_prior_and_many_do() -> None:
    names = (Entrant("a", "a", 1.0, prior=-0.05), Entrant("b", "b", 1.0, prior=0.05))
    levels = {"a": 0.32, "b": 0.3}
    assert wins(names, levels, 24, "a") >= 13
    assert wins(names, levels, 800, "b") >= 17


def test_few_pictures_do_not_overturn_what_is_known_of_a_way_of_using_networks() -> None:
    def smaller(e: Entrant) -> Iterator[Entrant]:
        yield replace(e, name=f"{e.name}@160", gap=0.04, way="smaller")

    names, levels = [Entrant("net", "net", 1.0)], {"net": 0.32, "net@160": 0.3}
    assert wins(names, levels, 24, "net", variants=smaller) >= 12
    assert wins(names, levels, 900, "net@160", variants=smaller) >= 17


def test_a_variant_stands_and_falls_with_its_network() -> None:
    """Two networks at the same level: what was measured of one says as much of how it does when used otherwise."""

    def larger(e: Entrant) -> Iterator[Entrant]:
        yield replace(e, name=f"{e.name}@288", gap=-0.08)

    levels = {"a": 0.2, "b": 0.4, "a@288": 0.2, "b@288": 0.4}
    raced = Audience(levels).run(
        race([Entrant("a", "a", 1.0), Entrant("b", "b", 1.0)], *pictures(48), seed=0, variants=larger)
    )
    found = {p.entrant.name: p.expected for p in raced.places}
    assert found["a@288"] < found["a"] < found["b"]


def test_a_way_that_helped_one_network_is_tried_on_the_others_first() -> None:
    """The larger input of a cheap network was worth much, the smaller one nothing: so with the dear one, unseen."""

    def ways(e: Entrant) -> Iterator[Entrant]:
        for way in ("larger", "smaller"):
            yield replace(e, name=f"{e.name} {way}", way=way)

    entrants = [Entrant("cheap", "cheap", 1.0), Entrant("dear", "dear", 8.0, prior=-0.03)]
    levels = {"cheap": 0.4, "cheap larger": 0.25, "cheap smaller": 0.5}
    levels |= {name.replace("cheap", "dear"): level - 0.05 for name, level in levels.items()}
    audience = Audience(levels)
    raced = audience.run(race(entrants, *pictures(200), seed=0, variants=ways))
    asked = [ask.entrant.name for ask in audience.asked]
    assert raced.winner.entrant.name == "dear larger"
    assert asked.index("dear larger") < asked.index("dear smaller") if "dear smaller" in asked else True


def test_nothing_is_spent_on_ways_of_a_network_that_is_far_behind() -> None:
    entrants, levels = field([0.2, 0.21, 0.6])
    levels |= {f"net{i}@{size}": level for i in range(3) for size, level in ((160, 0.3), (288, 0.1))}
    audience = Audience(levels)
    raced = audience.run(race(entrants, *pictures(300), seed=0, variants=sizes_of))
    assert raced.winner.entrant.name in ("net0@288", "net1@288")
    behind = sum(ask.work for ask in audience.asked if ask.entrant.name.startswith("net2@"))
    assert behind < 0.1 * raced.work


@pytest.mark.parametrize(("gain", "offered"), [(0.1, True), (0.001, False), (-0.02, False)])
def test_a_pair_is_offered_only_for_a_real_gain(gain: float, offered: bool) -> None:
    entrants, levels = field([0.3, 0.305])
    audience = Audience(levels)
    best = ""

    def joined(a: Entrant, b: Entrant) -> Entrant:
        nonlocal best
        best = a.name
        assert {a.network, b.network} == {"net0", "net1"}
        return Entrant("pair", "pair", a.work + b.work, parts=(a, b))

    def answer(ask: Ask) -> Sounding:
        if not ask.entrant.parts:
            return audience.plain(ask)
        alone = sounding(replace(ask, entrant=ask.entrant.parts[0]), levels[best], 0)
        sway = 0.1 * (-1) ** np.arange(len(ask.rows))  # pictures differ far more than the pair gains
        return replace(alone, scores=alone.scores - gain + sway)

    raced = audience.run(race(entrants, *pictures(300), seed=0, joined=joined), answer)
    assert (raced.winner.entrant.name == "pair") == offered
    assert [ask.work for ask in audience.asked if ask.entrant.name == "pair"] == [0]  # both halves were there


# What goes wrong


def test_one_that_fails_is_told_and_the_race_goes_on() -> None:
    entrants, levels = field([0.3, 0.2])
    audience = Audience(levels)
    raced = audience.run(
        race(entrants, *pictures(100), seed=0),
        lambda ask: "no weights" if ask.entrant.name == "net1" else audience.plain(ask),
    )
    assert raced.winner.entrant.name == "net0"
    assert [(p.fate, p.reason) for p in raced.places if p.entrant.name == "net1"] == [("failed", "no weights")]


def test_when_time_is_up_what_is_known_is_ranked() -> None:
    entrants, levels = field([0.3, 0.28, 0.29])
    audience = Audience(levels)

    def until(ask: Ask) -> Sounding | None:
        return None if len(audience.asked) > 4 else audience.plain(ask)

    raced = audience.run(race(entrants, *pictures(400), seed=0), until)
    assert len(audience.asked) == 5
    seen = {ask.entrant.name: len(ask.rows) for ask in audience.asked[:4]}
    assert {p.entrant.name: p.pictures for p in raced.places} == seen
    assert all(p.pictures >= len(raced.rows) for p in raced.places if p.fate == "ranked")
    assert raced.winner.fate == "ranked"


@given(st.lists(st.floats(0.1, 0.5), min_size=3, max_size=6), st.integers(0, 2**16), st.floats(1, 2.5))
@settings(max_examples=25, deadline=None)
def test_those_that_got_too_few_pictures_have_a_chance_and_with_those_dropped_all_make_one(
    levels: list[float], seed: int, share: float
) -> None:
    entrants, known = field(levels)
    raced = Audience(known, seed).run(race(entrants, *pictures(300), seed=seed, most=share * 300))
    order = [p.fate for p in raced.places if p.pictures]
    assert order == sorted(order, key=("ranked", "left out", "dropped").index)
    chances = [p.best for p in raced.places if p.fate in ("ranked", "left out")]
    assert all(0 <= chance <= 1 for chance in chances)
    left = 1 - sum(chances)  # to those that were dropped
    assert left == pytest.approx(0, abs=1e-9) if "dropped" not in order else -1e-9 < left < 0.5


def test_too_little_work_for_anyone_is_an_error() -> None:
    entrants, _ = field([0.3, 0.2], work=2.0)
    with pytest.raises(OptionError, match="too little for any network"):
        next(race(entrants, *pictures(100), seed=0, most=10))
