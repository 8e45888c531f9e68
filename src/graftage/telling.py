"""The promises of a model and how they fared, told: in the summary, on the page, in the cells of `predictions.csv`."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graftage.measure.decide import Answers, RiskCoverage
from graftage.measure.promises import ENOUGH, Promises
from graftage.report.contents import Promised
from graftage.serve.tables import listed, truth

_UNSAID = "the model file does not say why"


def summary_lines(found: Promises | None) -> list[str]:
    """At most three lines for the terminal: what is promised, and what it came to on held-out pictures."""
    if found is None:
        return []
    lines, rules = [], found.decisions
    if rules.sets is not None and found.coverage is not None and found.set_size is not None:
        lines.append(
            f"prediction sets     hold the true class of {found.coverage.percent()}, "
            f"asked {_share(rules.sets.coverage)}; {found.set_size.value:.2f} classes on average"
        )
    if rules.answers is not None and found.answered is not None and found.error is not None:
        lines.append(
            f"sure answers        {found.answered.percent()} of pictures, of these wrong {found.error.percent()}, "
            f"asked at most {_share(rules.answers.max_error)}"
        )
    if rules.unlike is not None and found.false_alarms is not None:
        lines.append(
            f"unlike flag         wrongly raised for {found.false_alarms.percent()}, "
            f"set to {_share(rules.unlike.false_alarm)}"
        )
    return lines


def promised(found: Promises | None) -> tuple[Promised, ...]:
    """The rows of the page's table."""
    if found is None:
        return ()
    rules, why = found.decisions, found.decisions.reasons
    rows: list[Promised] = []
    if rules.sets is None:
        rows.append(Promised("Prediction sets", None, None, why=why.get("sets", _UNSAID)))
    else:
        asked = f"{_share(rules.sets.coverage)} or more"
        rows.append(Promised("Prediction sets that hold the true class", asked, found.coverage))
        rows.append(Promised("Classes in a set, on average", "as few as can be", found.set_size, share=False))
    if rules.answers is None:
        rows.append(Promised("Sure answers", None, None, why=why.get("answers", _UNSAID)))
    else:
        asked = f"{_share(rules.answers.max_error)} or less"
        rows.append(Promised("Pictures that get a sure answer", "as many as can be", found.answered))
        rows.append(Promised("Sure answers that are wrong", asked, found.error))
    if rules.unlike is None:
        rows.append(Promised("A flag for strange pictures", None, None, why=why.get("unlike", _UNSAID)))
    else:
        asked = f"about {_share(rules.unlike.false_alarm)}"
        rows.append(Promised("Flagged as strange, though of the same kind", asked, found.false_alarms))
    return tuple(rows)


def curve(found: Promises | None) -> RiskCoverage | None:
    """The risk-coverage curve of the page."""
    return None if found is None else found.curve


def how_decided(found: Promises | None) -> str:
    """On what the promises were measured."""
    if found is None:
        return ""
    if found.apart:
        return f"Measured on {found.n:,} held-out pictures by the rules of the model file, which never saw them."
    return (
        f"Measured on {found.n:,} out-of-fold answers: each part is judged by rules fitted to the other parts. "
        "The rules of the model file are fitted to all of them."
    )


def calibration_words(found: Promises | None) -> str:
    """The calibration error, against what chance alone would give."""
    if found is None:
        return ""
    if found.n < ENOUGH:
        return f"With fewer than {ENOUGH} pictures a calibration error would say next to nothing; look at the dots."
    verdict = "no miscalibration shown" if found.calibration_error <= found.perfect_error else "miscalibrated"
    return (
        f"Debiased calibration error {_share(found.calibration_error, 1)}: {verdict}. Of 100 perfectly calibrated "
        f"models with as many pictures, 95 would show up to {_share(found.perfect_error, 1)}."
    )


def decision_cells(
    answers: Answers, row: int, order: NDArray[np.int64], classes: Sequence[str]
) -> tuple[str, str, str, str]:
    """Prediction set, abstained, p-value and flag of one picture, as cells; classes in `order` of probability."""
    sets, unlike = answers.sets, answers.unlike
    p = math.nan if answers.unlike_p is None else float(answers.unlike_p[row])
    judged = unlike is not None and not math.isnan(p)
    return (
        "" if sets is None else listed([classes[k] for k in order if sets[row, k]]),
        truth(None if answers.abstained is None else bool(answers.abstained[row])),
        f"{p:.9g}" if judged else "",
        truth(bool(unlike[row]) if unlike is not None and judged else None),
    )


def _share(value: float, digits: int | None = None) -> str:
    return f"{100 * value:g} %" if digits is None else f"{100 * value:.{digits}f} %"
