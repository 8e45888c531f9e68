"""What the page of a run shows, as plain values: whoever has them can have the page."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from graftage.measure.interval import Estimate
from graftage.measure.scores import Scores
from graftage.report import figures
from graftage.report.clues import ClueRow
from graftage.report.fan import Fan
from graftage.report.scatter import Dot


@dataclass(frozen=True)
class Beside:
    """What stands beside a mistake.

    Attributes:
        heat: where the answer comes from, as a data URI to lie over the thumbnail.
        image: thumbnail of the most similar training picture as a data URI; empty when there is none.
        id: its file.
        label: its class.
        similarity: cosine, −1 to 1.
    """

    heat: str
    image: str = ""
    id: str = ""
    label: str = ""
    similarity: float = 0.0

    def __post_init__(self) -> None:
        assert all(not i or i.startswith("data:image/") for i in (self.heat, self.image)), "the page loads nothing"


@dataclass(frozen=True)
class Shot:
    """One held-out picture and what was said of it.

    Attributes:
        id: file name or path, as the ledger has it.
        true: class by label.
        predicted: class by model.
        confidence: probability given to the predicted class, 0 to 1.
        runner_up: second class; may be empty.
        image: thumbnail as a data URI, or empty when there is none.
        beside: its heat map and the training picture most like it, where it has them.
    """

    id: str
    true: str
    predicted: str
    confidence: float
    runner_up: str
    image: str
    beside: Beside | None = None

    def __post_init__(self) -> None:
        assert not self.image or self.image.startswith("data:image/"), (
            "thumbnails are data URIs: the page loads nothing"
        )
        assert -1e-6 <= self.confidence <= 1 + 1e-6, f"{self.confidence} is no probability"


@dataclass(frozen=True)
class Left:
    """An input that was not used: its id, its status in the ledger, and why."""

    id: str
    status: str
    reason: str


@dataclass(frozen=True)
class Baseline:
    """A simpler classifier on the same held-out pictures.

    Attributes:
        name: what it is.
        accuracy: its accuracy.
        macro_f1: its macro F1.
        difference: paired, our accuracy minus its accuracy, in the unit range.
        p: exact McNemar p-value of that difference.
    """

    name: str
    accuracy: Estimate
    macro_f1: Estimate
    difference: Estimate | None = None
    p: float | None = None


@dataclass(frozen=True)
class Promised:
    """A promise of the model, and what came of it on held-out pictures.

    Attributes:
        name: what is promised.
        asked: what was asked for, in a few words; None where it could not be promised.
        found: what was measured, None where nothing was.
        share: whether that is a share, to be written as percent.
        why: why it could not be promised.
    """

    name: str
    asked: str | None
    found: Estimate | None
    share: bool = True
    why: str = ""


@dataclass(frozen=True, eq=False)
class Report:
    """All that the page shows, as plain values; whatever is left empty leaves its section out.

    Attributes:
        title: name of the run.
        verdict: one sentence.
        scores: on held-out pictures.
        how_measured: a paragraph on what was held out and how often it was looked at; a blank line starts a new one.
        data: facts on the data, in order.
        class_counts: (class, pictures learnt from, pictures held out).
        baselines: simplest first.
        mistakes: most confident first.
        cells: (true, predicted), as class indices → its pictures, perhaps not all of them.
        left_out: inputs that were not used.
        problems: (severity, kind, id, detail), worst first.
        reliability: bins of confidence, see `figures.Bins`.
        calibration: a sentence or two on the calibration error.
        promised: promises beyond probabilities, and how they fared; how_decided: on what they were measured.
        curve: error against the share answered, see `figures.Curve`.
        trials: (name, log-loss, accuracy, chosen) of all that was tried.
        timing: (stage, seconds), in order.
        model: facts on the model file, in order.
        usage: (caption, code).
        notes: notices that belong on top.
        card: (heading, words) of the model card.
        dots: held-out pictures on a flat map, perhaps not all of them.
        growth: how the score grows with the pictures: the figure, and a sentence.
        clues: what clues beside the content name alone; compared: what that is compared with.
    """

    title: str
    verdict: str
    scores: Scores
    how_measured: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    class_counts: tuple[tuple[str, int, int], ...] = ()
    baselines: tuple[Baseline, ...] = ()
    mistakes: tuple[Shot, ...] = ()
    cells: Mapping[tuple[int, int], tuple[Shot, ...]] = field(default_factory=dict)
    left_out: tuple[Left, ...] = ()
    problems: tuple[tuple[str, str, str, str], ...] = ()
    reliability: figures.Bins | None = None
    calibration: str = ""
    promised: tuple[Promised, ...] = ()
    how_decided: str = ""
    curve: figures.Curve | None = None
    trials: tuple[tuple[str, float, float, bool], ...] = ()
    timing: tuple[tuple[str, float], ...] = ()
    model: Mapping[str, str] = field(default_factory=dict)
    usage: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    card: tuple[tuple[str, str], ...] = ()
    dots: tuple[Dot, ...] = ()
    growth: tuple[Fan, str] | None = None
    clues: tuple[ClueRow, ...] = ()
    compared: str = ""
