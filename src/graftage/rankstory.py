"""What a ranking says: lines for the terminal, the page, and the record beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graftage.entrants import megabytes
from graftage.learn.entries import Place
from graftage.learn.race import HOPELESS
from graftage.measure.interval import CROSS_VALIDATED, Estimate, wilson
from graftage.measure.selection import Trials, bbc
from graftage.ranking import Ranking
from graftage.report.figures import duration
from graftage.report.pareto import Spot
from graftage.report.rank import RankPage, Row
from graftage.writing import finite

SURE = 0.5  # probability of being the best above which no more time is advised
_HEADS = ("P(best)", "All pictures", "One picture", "from its file", "Weights", "Licence")
_SCORES = ("LogME", "Nearest neighbours", "Linear probe", "its log-loss")


@dataclass(frozen=True, eq=False)
class Ranked:
    """What `rank` found.

    Attributes:
        best: id of the network recommended, for `backbone`; and fit, how pictures are made square for it.
        table: a record for every candidate, best first, those not ranked at the end.
        recommendation: one sentence with its reason.
        path: the page; a json file of the same name lies beside it.
        summary: lines for a person.
        notes: what to keep in mind.
    """

    best: str
    fit: str
    table: tuple[Mapping[str, Any], ...]
    recommendation: str
    path: Path
    summary: tuple[str, ...]
    notes: tuple[str, ...]


def accuracies(ranking: Ranking, *, seed: int) -> dict[str, Estimate]:
    """Expected accuracy of every network that is ranked, by name; the winner's without the luck of being chosen."""
    raced, groups = ranking.raced, ranking.groups
    ranked = [p for p in raced.places if p.fate == "ranked" and p.sounding is not None]
    effective, seen = len(np.unique(groups)) / CROSS_VALIDATED**2, len(np.unique(groups))
    found = {p.entrant.name: wilson(p.trial.accuracy(raced.y), effective) for p in ranked if p.trial is not None}
    soundings = [p.sounding for p in ranked if p.sounding is not None]
    if len(soundings) > 1 and seen > 1:
        columns = Trials(
            np.stack([s.scores for s in soundings], axis=1).astype(np.float32),  # in place of the loss: it is compared
            np.stack([s.trial.predicted for s in soundings], axis=1).astype(np.int64),
            np.stack([s.trial.briers for s in soundings], axis=1),
        )
        corrected = bbc(
            columns, raced.y, groups, n_classes=int(raced.y.max()) + 1, rng=np.random.default_rng([seed, 15])
        )
        name = raced.winner.entrant.name
        value = min(corrected.accuracy, found[name].value)
        found[name] = Estimate(**{**vars(wilson(value, effective)), "method": "BBC + wilson"})
    return found


def table(ranking: Ranking, accuracy: Mapping[str, Estimate], n: int) -> tuple[dict[str, Any], ...]:
    """A record for every candidate, best first."""
    rows = [_record(ranking, place, accuracy, n) for place in ranking.raced.places]
    return (*rows, *({"name": name, "fate": "shut out", "reason": why} for name, why in ranking.shut_out))


def _record(ranking: Ranking, place: Place, accuracy: Mapping[str, Estimate], n: int) -> dict[str, Any]:
    name = place.entrant.name
    use = ranking.uses[name]
    score, speed = accuracy.get(name), ranking.seconds.get(name)
    scores = ranking.scores.get(name)
    return {
        "name": name,
        "backbone": use.spec,
        "fit": use.fit,
        "fate": place.fate,
        "reason": place.reason,
        "pictures": place.pictures,
        "accuracy": None if score is None else dict(vars(score)),
        "expected_half_brier": finite(place.expected),
        "probability_best": None if place.fate == "dropped" else finite(place.best),
        "embed_seconds": None if speed is None else speed * n,
        "picture_seconds": None if use.cost is None else use.cost.forward,
        "picture_seconds_with_decoding": None if use.cost is None else use.cost.whole,
        "megabytes": None if use.info is None else megabytes(use.info),
        "parameters": None if use.info is None else use.info.parameters,
        "licence": None if use.info is None else use.info.licence,
        **({} if scores is None else vars(scores)),
    }


def recommendation(rows: tuple[Mapping[str, Any], ...]) -> str:
    """One sentence or two, with the reason."""
    ranked = [row for row in rows if row["fate"] == "ranked"]
    open_ones = [row for row in rows if row["fate"] == "left out" and row["probability_best"]]
    best = ranked[0]
    words = f"Take {best['name']}: {_percent(best)} expected"
    if len(ranked) == 1 and not open_ones:
        others = sum(row["fate"] == "dropped" for row in rows)
        behind = "the other" if others == 1 else f"all {others} others"
        return f"{words}, {f'{behind} fell behind on these pictures' if others else 'the only candidate'}."
    words += f", the best of {len(rows)} with probability {100 * best['probability_best']:.0f} %{_faster(ranked)}."
    if best["probability_best"] > SURE or not open_ones:
        return words
    return (
        f"{words} {_counted(len(open_ones))} given fewer pictures or none and may be better: a longer --budget tells."
    )


def _faster(ranked: Sequence[Mapping[str, Any]]) -> str:
    """What the first one costs that takes much less time than the best, "" if there is none."""
    best = ranked[0]
    faster = [row for row in ranked[1:] if row["picture_seconds"] < 0.7 * best["picture_seconds"]]
    if not faster:
        return ""
    other = faster[0]
    points = 100 * (best["accuracy"]["value"] - other["accuracy"]["value"])
    less = f"{points:.1f} points less" if points > 0.05 else "no less"
    return (
        f"; {other['name']} takes {100 * other['picture_seconds'] / best['picture_seconds']:.0f} % of its time "
        f"for {less}, and is the best with probability {100 * other['probability_best']:.0f} %"
    )


def _counted(others: int) -> str:
    return "Another was" if others == 1 else f"{others} others were"


def _percent(row: Mapping[str, Any]) -> str:
    return Estimate(**row["accuracy"]).percent()


def summary(rows: tuple[Mapping[str, Any], ...], said: str, n: int, path: Path) -> tuple[str, ...]:
    """The table for the terminal, and the recommendation."""
    ranked = [row for row in rows if row["fate"] == "ranked"]
    wide = max(len(row["name"]) for row in rows)
    more = _SCORES if any("logme" in row for row in rows) else ()
    heads = ("P(best)", "all", "one", "weights", " licence")
    lines = [f"{'network':<{wide}}  {'accuracy':<24}" + "".join(f"{head:>11}" for head in heads)]
    lines[0] += "".join(f"{head:>20}" for head in more)
    for row in ranked:
        cells = (
            f"{100 * row['probability_best']:.0f} %",
            duration(row["embed_seconds"]) if row["embed_seconds"] is not None else "–",
            f"{1e3 * row['picture_seconds']:.1f} ms",
            f"{row['megabytes']:.1f} MB",
            f" {row['licence']}",
        )
        extra = "".join(f"{value:>20}" for value in _score_cells(row)) if more else ""
        lines.append(f"{row['name']:<{wide}}  {_percent(row):<24}" + "".join(f"{c:>11}" for c in cells) + extra)
    lines += [f"{row['name']:<{wide}}  {_told(row)}" for row in rows if row["fate"] != "ranked"]
    at = ranked[0]["pictures"]
    return (*lines, said, f"{at:,} of {n:,} pictures to learn from looked at, no test picture; {path}")


def _why(row: Mapping[str, Any]) -> str:
    return f"{row['fate']}: {row['reason']}" if row["reason"] else str(row["fate"])


def _chance(row: Mapping[str, Any]) -> str:
    chance = row.get("probability_best")
    return "" if chance is None else f"{100 * chance:.0f} %"


def _told(row: Mapping[str, Any]) -> str:
    return f"{_why(row)}; the best with probability {_chance(row)}" if _chance(row) else _why(row)


def _score_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "logme" not in row:
        return ("–",) * len(_SCORES)
    return (
        f"{row['logme']:.3f}",
        f"{100 * row['knn']:.1f} %",
        f"{100 * row['probe']:.1f} %",
        f"{row['log_loss']:.3f}",
    )


def page(
    rows: tuple[Mapping[str, Any], ...], said: str, ranking: Ranking, *, title: str, n: int, notes: tuple[str, ...]
) -> RankPage:
    """What the page says."""
    ranked = [row for row in rows if row["fate"] == "ranked"]
    more = _SCORES if any("logme" in row for row in ranked) else ()
    spots = [
        Spot(row["name"], 1e3 * row["picture_seconds"], Estimate(**row["accuracy"]), row is ranked[0])
        for row in ranked
        if row["picture_seconds"]
    ]
    return RankPage(
        title=title,
        verdict=said,
        notes=notes,
        spots=tuple(spots),
        heads=(*_HEADS, *more),
        rows=tuple(
            Row(row["name"], Estimate(**row["accuracy"]), _cells(row, more), "recommended" if row is ranked[0] else "")
            for row in ranked
        ),
        out=tuple((row["name"], _chance(row), _why(row)) for row in rows if row["fate"] != "ranked"),
        facts={
            "pictures to learn from": f"{n:,}",
            "looked at": f"{ranked[0]['pictures']:,} in the last round",
            "candidates": f"{len(rows):,}, {len(ranked):,} of them ranked",
            "recommended": f"--backbone {ranked[0]['backbone']} --fit {ranked[0]['fit']}",
        },
        how=_how(ranking),
    )


def _cells(row: Mapping[str, Any], more: tuple[str, ...]) -> tuple[str, ...]:
    return (
        f"{100 * row['probability_best']:.0f} %",
        duration(row["embed_seconds"]) if row["embed_seconds"] is not None else "–",
        f"{1e3 * row['picture_seconds']:.1f} ms",
        f"{1e3 * row['picture_seconds_with_decoding']:.1f} ms",
        f"{row['megabytes']:.1f} MB",
        row["licence"],
        *(_score_cells(row) if more else ()),
    )


def _how(ranking: Ranking) -> str:
    rounds = ", ".join(f"{size:,}" for size in ranking.raced.rounds)
    first = (
        f"Networks raced on {rounds} of the pictures to learn from, each part within the next, stratified, with what "
        "belongs together kept together. On each part a ridge regression on a network's frozen features was held out "
        "in two times five folds, the same for all; its nearest neighbours were asked, and the evidence of a Bayesian "
        "linear model (LogME, corrected). What was measured, what is known of networks in general and of ways of "
        "using them (other input sizes, two layers together, other ways of making the square), and what the ways of "
        "one network have in common are put together in a normal model of all their error rates; the next to be "
        "looked at was whoever's next part was worth most for its work. Who was better than the leader with a "
        f"probability below {100 * HOPELESS:.0f} %, by that model and by the paired differences alone, was dropped. "
        "At the end the best two were tried side by side, which are offered only if the gain is more than its "
        "standard error."
    )
    second = (
        "They stand in the order that the model expects. What it was told is the mean of three error rates: half the "
        "Brier score of the regression, which counts twice, that of the neighbours, and the squared error that the "
        "evidence stands for. Luck moves them less than the share of right answers, and each in another way. The "
        "accuracy is that of the cheap head on the pictures of the last round that the network recommended was in, "
        "with Wilson's interval; that of the network recommended is corrected for "
        "having been chosen (bootstrap bias correction). graftage train chooses among more heads, learns from all "
        "pictures and measures anew. No test picture was looked at."
    )
    third = (
        "A ranking takes at most a quarter of the work of embedding all pictures with every network in every way, or "
        "the time of --budget. The time for one picture is the median of a few, one after the other, on this machine; "
        "that for all pictures is by the speed met in the race, all cores at work."
    )
    return "\n\n".join((first, second, third))
