"""What a run found, told: for the terminal in ten lines, for the browser as a page. Writes nothing."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graftage import checking, growth, openings, shown, telling
from graftage.data.catalog import Catalog, printable
from graftage.data.checks import Problem
from graftage.data.listing import title_of
from graftage.gate import Suspected
from graftage.measure.calibration import reliability
from graftage.measure.curve import Curve
from graftage.measure.shortcuts import Shortcut
from graftage.measuring import Measured
from graftage.report.contents import Baseline, Beside, Left, Report
from graftage.serve.bundle import Bundle
from graftage.settings import Settings
from graftage.tuning import Adapted

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Outcome:
    """All that a training run, or an evaluation, found.

    Attributes:
        settings: what was asked for.
        catalog: every file looked at; its entries are the rows of the ledger.
        problems: with pictures and labels, worst first.
        bundle: what the model file holds.
        measured: what it is worth on held-out pictures.
        timing: (stage, seconds), in order.
        notes: notices that belong on top.
        adapted: how the network was tuned; None where no network was.
        curve: how the score grows with the pictures; None where it was not looked at.
        suspected: series that nobody has named.
        beside: what stands beside a mistake on the page, by the position among the held-out pictures.
        shortcuts: clues beside the content, the best first.
    """

    settings: Settings
    catalog: Catalog
    problems: tuple[Problem, ...]
    bundle: Bundle
    measured: Measured
    timing: tuple[tuple[str, float], ...] = ()
    notes: tuple[str, ...] = ()
    adapted: Adapted | None = None
    curve: Curve | None = None
    suspected: tuple[Suspected, ...] = ()
    beside: Mapping[int, Beside] = field(default_factory=dict)
    shortcuts: tuple[Shortcut, ...] = ()


def no_signal(measured: Measured) -> bool:
    """Whether the classifier cannot be told from always naming the most frequent class."""
    return any(b.name == "majority class" and b.p is not None and b.p > 0.05 for b in measured.baselines)


def notices(outcome: Outcome) -> tuple[str, ...]:
    """What belongs on top of the page and the summary."""
    found = list(outcome.notes)
    if no_signal(outcome.measured):
        found.append("No signal found: the model is not measurably better than always naming the most frequent class.")
    counts = Counter(problem.kind for problem in outcome.problems)
    if (leak := outcome.measured.leak) is not None:
        found.append(
            f"{leak.n:,} of {leak.of:,} test pictures are also in train, as copies or in one group (see problems): "
            "they are left out of the score. Accuracy without them "
            f"{outcome.measured.scores.accuracy.percent()}, with them {leak.scores.accuracy.percent()}."
        )
    if clashing := counts["conflicting labels"]:
        found.append(f"{clashing:,} pictures have a copy in another class (see problems).")
    found += [
        f"Shortcut: {each.clue} {each.words()}. The model may have learnt this instead of what is shown."
        for each in outcome.shortcuts
        if each.serious
    ]
    if outcome.measured.openings >= openings.MANY:
        found.append(openings.told(outcome.measured.openings))
    return tuple(found)


def summary(outcome: Outcome, folder: Path) -> tuple[str, ...]:
    """About ten lines for the terminal."""
    s, counts = outcome.measured.scores, outcome.catalog.counts()
    used = counts["used"] + counts["repaired"]
    left = f", {counts['rejected']:,} left out (why: ledger.csv)" if counts["rejected"] else ""
    lines = [
        f"{used:,} pictures of {len(outcome.catalog.classes):,} classes used{left}",
        f"accuracy            {s.accuracy.percent()}",
        f"macro F1            {s.macro_f1.percent()}",
        f"balanced accuracy   {s.balanced_accuracy.percent()}",
        f"log-loss            {s.log_loss.number()}",
    ]
    lines += [_against(baseline) for baseline in outcome.measured.baselines]
    if outcome.adapted is not None and outcome.settings.recipe != "linear":
        lines += [f"shipped             {shipped(outcome.adapted)}"]
    lines += telling.summary_lines(outcome.measured.promises)
    lines += [f"measured            {_measured_on(outcome.measured)}"]
    lines += [f"note                {notice}" for notice in notices(outcome)]
    return (
        *lines,
        f"report              {folder / 'report.html'}",
        f"model               {folder / 'model.safetensors'}",
    )


def shipped(adapted: Adapted) -> str:
    """What ships, and why."""
    what = "the head on frozen features" if adapted.tuned is None else f"recipe {adapted.shipped}"
    return f"{what}: {adapted.reason}"


def _against(baseline: Baseline) -> str:
    gain = baseline.difference
    better = f"; ours {100 * gain.value:+.1f} points ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})" if gain else ""
    return f"{baseline.name:<19} {baseline.accuracy.percent()}{better}"


def _measured_on(measured: Measured) -> str:
    times = "" if measured.openings <= 1 else f", opened {measured.openings:,} times"
    kind = f"test set{times}" if measured.apart else "cross-validation, corrected for selection"
    return f"on {measured.scores.n:,} held-out pictures ({kind}); 95 % intervals, {measured.scores.accuracy.method}"


def report(outcome: Outcome, *, size: int) -> Report:
    """The page's contents; `size` is that of the model file in bytes. Reads the pictures that it shows."""
    measured, catalog = outcome.measured, outcome.catalog
    shots = shown.shots(measured, catalog, outcome.settings, outcome.beside)
    learnt = np.array(outcome.bundle.data["class_counts"])
    return Report(
        title=title_of(outcome.settings.data) or "pictures",
        verdict=_verdict(outcome),
        scores=measured.scores,
        how_measured="\n\n".join(filter(None, (measured.how, openings.told(measured.openings)))),
        data=_data_facts(outcome),
        class_counts=tuple(
            (name, int(learnt[k]), int((measured.y == k).sum())) for k, name in enumerate(catalog.classes)
        ),
        baselines=measured.baselines,
        mistakes=tuple(shots[i] for i in shown.worst(measured) if i in shots)[: shown.MISTAKES],
        cells=shown.cells(measured, shots),
        left_out=tuple(Left(e.id, e.status, e.reason) for e in catalog.entries if e.status == "rejected"),
        problems=tuple((p.severity, p.kind, p.id, p.detail) for p in outcome.problems if p.kind != "rejected"),
        reliability=reliability(measured.probabilities, measured.y, bins=15 if len(measured.y) >= 300 else 5),
        trials=measured.tried,
        timing=outcome.timing,
        model={**_model_facts(outcome.bundle, size), **_recipe_facts(outcome.adapted)},
        usage=_usage(),
        promised=telling.promised(outcome.measured.promises),
        how_decided=telling.how_decided(outcome.measured.promises),
        curve=telling.curve(outcome.measured.promises),
        calibration=telling.calibration_words(outcome.measured.promises),
        notes=notices(outcome),
        dots=shown.dots(measured, shots),
        growth=growth.section(outcome.curve),
        clues=checking.shortcut_rows(outcome.shortcuts),
        compared=checking.compared_with(outcome.shortcuts, content="by the head on frozen features"),
    )


def _verdict(outcome: Outcome) -> str:
    s = outcome.measured.scores
    if no_signal(outcome.measured):
        return "No signal found: these pictures do not tell the classes apart for this network."
    wrong = max(1, round(1 / max(1 - s.accuracy.value, 1e-9)))
    rate = "practically never wrong here" if s.accuracy.value > 0.9995 else f"wrong about once in {wrong:,} pictures"
    return f"On pictures it has never seen, this classifier of {len(s.classes):,} classes is {rate}."


def _data_facts(outcome: Outcome) -> dict[str, str]:
    catalog, counts = outcome.catalog, outcome.catalog.counts()
    formats = Counter(Path(e.id).suffix.lower() or "none" for e in catalog.entries if e.status != "rejected")
    return {
        "table" if catalog.table else "folder": str(outcome.settings.data),
        "files": f"{len(catalog.entries):,}",
        "used": f"{counts['used']:,}",
        "repaired": f"{counts['repaired']:,}",
        "left out": f"{counts['rejected']:,}",
        "classes": f"{len(catalog.classes):,}",
        "learnt from": f"{outcome.measured.learnt_from:,}",
        "held out": f"{outcome.measured.scores.n:,}{'' if outcome.measured.apart else ', each in its turn'}",
        "endings": ", ".join(f"{name} {n:,}" for name, n in formats.most_common(5)),
    }


def _model_facts(bundle: Bundle, size: int) -> dict[str, str]:
    backbone, head = bundle.backbone, bundle.head
    parts = [] if head.kernel and not head.weights.any() else ["linear layer"]
    parts = [f"hidden layer of {head.weights.shape[1]:,} and linear layer"] if head.hidden is not None else parts
    parts += [f"{head.kernel} kernel on {len(head.support):,} kept pictures"] if head.kernel else []
    known = 0 if bundle.neighbours is None else len(bundle.neighbours.names)
    return {
        "backbone": f"{backbone.id} ({backbone.architecture}), {backbone.parameters / 1e6:.1f} M parameters",
        "pretrained on": backbone.pretraining,
        "licence of its weights": f"{backbone.licence}; commercial use: {backbone.commercial_use}",
        "SHA-256 of its weights": backbone.weights_sha256,
        "input": f"{bundle.preprocess.size} × {bundle.preprocess.size} pixels, {bundle.preprocess.fit}",
        "head": f"{' and '.join(parts)}, {head.transform} features",
        "temperature": f"{bundle.temperature:.4g}",
        "features computed in": backbone.precision,
        "training pictures it can name": f"{known:,}",
        "size": f"{size / 2**20:.1f} MiB",
        **{f"version of {name}": version for name, version in bundle.versions.items()},
    }


def _recipe_facts(adapted: Adapted | None) -> dict[str, str]:
    return {} if adapted is None else {"recipe that ships": f"{adapted.shipped}: {adapted.reason}"}


def _usage() -> tuple[tuple[str, str], ...]:
    return (
        ("Predict pictures or folders", "graftage predict model.safetensors PICTURES/ -o predictions.csv"),
        ("See where answers come from", "graftage explain model.safetensors PICTURES/ -o explained.html"),
        ("Measure on another labelled folder", "graftage evaluate model.safetensors PHOTOS/"),
        (
            "From Python",
            'import graftage as gr\nmodel = gr.load("model.safetensors")\n'
            'for p in model.predict(["a.jpg", "b.jpg"]):\n    print(p.path, p.label, p.probability)',
        ),
    )


def prediction_rows(measured: Measured, catalog: Catalog) -> list[tuple[object, ...]]:
    """Held-out pictures as rows of `predictions.csv`: id, label, predicted, what was decided, then probabilities."""
    rows: list[tuple[object, ...]] = []
    for i, (index, y, p) in enumerate(zip(measured.rows, measured.y, measured.probabilities, strict=True)):
        order = np.argsort(-p, kind="stable")  # of equal ones the first class, as argmax says
        first, second = order[:2]
        named = (printable(catalog.entries[index].id), catalog.classes[y], catalog.classes[first])
        cells = telling.decision_cells(measured.answers, i, order, catalog.classes)
        rows.append((*named, f"{p[first]:.9g}", catalog.classes[second], *cells, *(f"{v:.9g}" for v in p)))
    return rows
