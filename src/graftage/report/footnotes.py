"""Numbers of the page that carry an interval, and the footnotes that say how each interval was got."""

from collections.abc import Iterable

from graftage.measure.interval import Estimate
from graftage.measure.scores import Scores
from graftage.report.contents import Report


def numbers(scores: Scores) -> list[tuple[str, Estimate, str]]:
    """What stands beside the accuracy: (name, estimate, how it is written)."""
    shares = [("Macro F1", scores.macro_f1), ("Balanced accuracy", scores.balanced_accuracy)]
    shares += [(f"Right class among the first {k}", e) for k, e in sorted(scores.top_k.items()) if k > 1]
    plain = [("AUROC", scores.auroc)] if scores.auroc is not None else []
    plain += [("Log-loss, lower is better", scores.log_loss), ("Brier score, lower is better", scores.brier)]
    return [(name, e, e.percent()) for name, e in shares] + [(name, e, e.number()) for name, e in plain]


def methods(report: Report) -> tuple[str, ...]:
    """Every way in which a number of the page was got, once, in order of appearance."""
    scores = report.scores
    shown = [scores.accuracy, *(estimate for _, estimate, _ in numbers(scores))]
    shown += [e for c in scores.per_class for e in (c.recall, c.precision, c.f1)]
    for baseline in report.baselines:
        shown += [e for e in (baseline.accuracy, baseline.macro_f1, baseline.difference) if e is not None]
    shown += [row.found for row in report.promised if row.found is not None]
    return tuple(dict.fromkeys(estimate.method for estimate in shown))


def marked(report: Report, estimates: Iterable[Estimate]) -> str:
    """Footnote marks of the methods behind some numbers."""
    numbers = {method: i for i, method in enumerate(methods(report), 1)}
    used = sorted({numbers[estimate.method] for estimate in estimates})
    links = ",".join(f'<a href="#method{i}" aria-label="method {i}">{i}</a>' for i in used)
    return f"<sup>{links}</sup>" if links else ""
