"""What `graftage predict --drift` found, told: a few lines for a person, JSON for a program."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from graftage.errors import StoreError
from graftage.measure.drift import Drift, Known
from graftage.measure.interval import Estimate
from graftage.serve.about import plain
from graftage.serve.bundle import Bundle
from graftage.writing import json_text, write_text

_SHOWN = 3  # classes whose shares have changed most


def known_of(bundle: Bundle) -> Known:
    """What a model file tells of the pictures it was trained and tested on."""
    counts = bundle.data.get("class_counts")
    usable = isinstance(counts, list) and len(counts) == len(bundle.classes) and sum(counts) > 0
    shares = tuple(count / sum(counts) for count in counts) if usable and isinstance(counts, list) else ()
    return Known(bundle.classes, shares, _accuracy(bundle.scores.get("accuracy")), bundle.decisions)


def _accuracy(record: object) -> Estimate | None:
    if not isinstance(record, dict):
        return None
    try:
        found = Estimate(float(record["value"]), float(record["low"]), float(record["high"]), str(record["method"]))
    except (KeyError, TypeError, ValueError):
        return None
    return found if found.measurable else None


def summary(found: Drift) -> list[str]:
    """Lines for a person."""
    against = f"; {found.held_out.percent()} on pictures held out" if found.held_out else ""
    lines = [
        f"estimated accuracy  {found.accuracy.percent()} by calibrated confidence{against}",
        f"                    {found.thresholded.percent()} by thresholded confidence",
        "                    both hold only as far as calibration does: a shift can make a model wrong and sure",
    ]
    lines.append(_unlike(found))
    if not math.isnan(found.distance):
        changed = sorted(found.shares, key=lambda each: -abs(each[1] - each[2]))[:_SHOWN]
        told = ", ".join(f"{name} {share:.1%} (trained on {before:.1%})" for name, share, before in changed)
        lines.append(f"classes             {found.distance:.1%} of the answers moved; most: {told}")
    if found.worth:
        lines.append(f"worth labelling     {len(found.worth)} pictures, most first:")
        lines += [f"  {each.path}  {each.label} {each.probability:.1%}, {each.why}" for each in found.worth]
    return lines


def _unlike(found: Drift) -> str:
    if not found.unlike.measurable:
        return "unlike anything     not judged: the model file has no detector"
    more = found.unlike.low > found.false_alarm
    verdict = "more than" if more else "no sign of more than"
    return f"unlike anything     {found.unlike.percent()}, {verdict} the {found.false_alarm:.0%} of false alarms"


def to_json(found: Drift) -> dict[str, Any]:
    """All of it; what could not be measured is null."""
    shares = [{"class": name, "share": share, "trained": before} for name, share, before in found.shares]
    return {name: plain(value) for name, value in {**asdict(found), "shares": shares}.items()}


def write(found: Drift, target: Path) -> None:
    """Writes the JSON to a temporary name and renames it. Raises StoreError."""
    try:
        write_text(json_text(to_json(found)), target)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written ({error.strerror}): choose another place") from error
