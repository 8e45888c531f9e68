"""An export to web in its own runtime: the page answers in a headless browser, from raw bytes, and the verdict (W)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graftage.data.decode import Limits
from graftage.data.sources import read
from graftage.errors import ExportError
from graftage.features.extract import Progress
from graftage.serve.browser import BrowserGone, find_browser, opened
from graftage.serve.checking import TOLERANCE, Answer

GOAL = 0.995  # of labels that must be the same
HOW = (
    "install Chromium or Chrome, or run `pip install playwright && playwright install chromium`, and export once more; "
    "or serve the folder, open it and drop some pictures"
)
_SHOWN = 5


@dataclass(frozen=True)
class Browsed:
    """How the page answered in a browser, which decodes pictures itself.

    Attributes:
        browser: name and version; "" where none was tried.
        reason: why none was tried; "" otherwise.
        n: pictures that it answered for.
        undecoded: further pictures that it cannot decode.
        same_as_model: of the n, how many got the label of the model in float32.
        same_as_file: of the n, how many got the label that the same file has in onnxruntime.
        median: largest difference of a picture's probabilities from those of the model, median over the pictures.
        worst: the largest of all.
        flags: of the n, how many the model and the page both say are unlike those trained on or not.
        flags_same: of those, how many got the same flag.
    """

    browser: str = ""
    reason: str = ""
    n: int = 0
    undecoded: int = 0
    same_as_model: int = 0
    same_as_file: int = 0
    median: float = 0.0
    worst: float = 0.0
    flags: int = 0
    flags_same: int = 0

    @property
    def summary(self) -> str:
        """A line for a person."""
        if not self.browser:
            return f"the page has NOT been tried in a browser: {self.reason}; {HOW}"
        if not self.n:
            return f"{self.browser} decodes none of the {self.undecoded:,} pictures; they were left out"
        flagged = f"; the flag was the same for {self.flags_same:,} of {self.flags:,}" if self.flags else ""
        left = f"; {self.undecoded:,} more it cannot decode" if self.undecoded else ""
        return (
            f"in {self.browser}, which decodes by itself: {self.same_as_model:,} of {self.n:,} got the model's label, "
            f"{self.same_as_file:,} that of the same file in onnxruntime; probabilities differ from the model's by "
            f"{self.median:.1e} in the median, {self.worst:.1e} at most{flagged}{left}"
        )


@dataclass(frozen=True)
class Seen:
    """What the page says of one picture.

    Attributes:
        answer: of the model, and of the same file in onnxruntime.
        row: of the page, as `Prediction` has it.
        difference: largest of all classes' probabilities, from the model's.
    """

    answer: Answer
    row: dict[str, Any]
    difference: float


def browse(
    folder: Path,
    answers: Sequence[Answer],
    *,
    limits: Limits,
    light: bool,
    progress: Progress | None = None,
) -> Browsed:
    """Asks the page of a folder about pictures, in a browser if there is one.

    Args:
        folder: of the export.
        answers: of the model and of the same file in onnxruntime.
        limits: of the files read.
        light: whether the file is in fewer bits: then its labels in onnxruntime are those that must come.
        progress: called with (done, total) pictures.

    Raises:
        ExportError: the page fails, or too many labels are others.
    """
    program = find_browser()
    if program is None:
        return Browsed(reason="there is no Chromium on this machine")
    seen = list[Seen]()
    try:
        with opened(folder, program) as page:
            for done, answer in enumerate(answers, start=1):
                row = page.row(read(Path(answer.path), limits=limits))
                seen.append(seen_by(answer, row))
                if progress is not None:
                    progress(done, len(answers))
            name = page.agent
    except BrowserGone as gone:
        return Browsed(reason=str(gone))
    except ValueError as error:
        raise ExportError(f"the page fails in the browser and was not kept: {str(error)[:200]}") from error
    return judged_in_browser(seen, browser=name, light=light)


def seen_by(answer: Answer, row: dict[str, Any]) -> Seen:
    """The row of a page beside the answer of the model."""
    found = row["probabilities"]  # none where it was rejected
    return Seen(answer, row, float(np.abs(np.subtract(found, answer.probabilities)).max()) if found else 0.0)


def judged_in_browser(seen: Sequence[Seen], *, browser: str, light: bool) -> Browsed:
    """The record of answers that pass: 99.5 % of the labels the same, or all but one.

    A label may also differ where the model's two best classes are as good as equally probable, as in `checking`.

    Raises:
        ExportError: more labels are others.
    """
    known = [each for each in seen if each.row["status"] != "rejected"]
    apart = [each for each in known if each.row["label"] != (each.answer.other if light else each.answer.label)]
    wrong = [each for each in apart if light or each.answer.margin >= 2 * TOLERANCE]
    if len(wrong) > max(1.0, (1 - GOAL) * len(known)):
        named = "; ".join(
            f"{each.answer.path}: {each.answer.other if light else each.answer.label} → {each.row['label']}"
            for each in sorted(wrong, key=lambda each: -each.difference)[:_SHOWN]
        )
        source = "the same file in onnxruntime" if light else "the model"
        raise ExportError(
            f"in {browser} the page gives other labels than {source} for {len(wrong):,} of {len(known):,} pictures "
            f"({GOAL:.1%} must be the same) and was not kept. Worst: {named}"
        )
    flags = [(each.answer.flag.flagged, each.row["unlike"]) for each in known if each.answer.flag is not None]
    differences = [each.difference for each in known] or [0.0]
    return Browsed(
        browser=browser,
        n=len(known),
        undecoded=len(seen) - len(known),
        same_as_model=sum(each.row["label"] == each.answer.label for each in known),
        same_as_file=sum(each.row["label"] == each.answer.other for each in known),
        median=float(np.median(differences)),
        worst=float(max(differences)),
        flags=len(flags),
        flags_same=sum(own == other for own, other in flags),
    )
