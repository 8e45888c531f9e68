"""The model card: what the classifier is for, what it learnt from, where it ends; every sentence from what was found.

After Mitchell et al., Model Cards for Model Reporting, 2019.
"""

from graftage.measure.scores import ClassScore
from graftage.serve.about import named
from graftage.story import Outcome, no_signal

_WEAK = 0.7  # recall whose interval ends below it is a weak class


def card(outcome: Outcome) -> tuple[tuple[str, str], ...]:
    """(heading, words) of the model card, in order."""
    return (
        ("Intended use", _use(outcome)),
        ("Learnt from", _data(outcome)),
        ("Measured", _measured(outcome)),
        ("Limits", " ".join(_limits(outcome))),
        ("Licences", _licences(outcome)),
    )


def _use(outcome: Outcome) -> str:
    classes = outcome.bundle.classes
    return (
        f"Names one of {len(classes):,} classes for a picture: {named(classes)}. It is meant for pictures taken as "
        "the ones below were: same kind of object, camera, light and distance."
    )


def _data(outcome: Outcome) -> str:
    measured, counts = outcome.measured, outcome.bundle.data["class_counts"]
    assert isinstance(counts, list)
    smallest = int(min(range(len(counts)), key=lambda k: int(counts[k])))
    name, backbone = outcome.bundle.classes[smallest], outcome.bundle.backbone
    return (
        f"{measured.learnt_from:,} labelled pictures, {int(counts[smallest]):,} of the rarest class ({name}), on top "
        f"of {backbone.id}, which was pretrained on {backbone.pretraining}."
    )


def _measured(outcome: Outcome) -> str:
    measured = outcome.measured
    apart = (
        " that the model file has not learnt from"
        if measured.apart
        else ", each by a model that had not learnt from it (cross-validation)"
    )
    return (
        f"Accuracy {measured.scores.accuracy.percent()} on {measured.scores.n:,} pictures{apart}. The interval "
        "speaks of new pictures from the same source; of another source it says nothing until you measure there "
        "(graftage evaluate)."
    )


def _limits(outcome: Outcome) -> list[str]:
    scores = outcome.measured.scores
    found = ["It always answers with one of its classes, also for a picture that shows none of them."]
    if no_signal(outcome.measured):
        found.append("It is not measurably better than always naming the most frequent class: do not use it.")
    if few := [c.name for c in scores.per_class if not c.measurable]:
        found.append(f"Held out were fewer than ten pictures of {named(few)}: how well it knows them is not known.")
    if weak := [c for c in scores.per_class if c.measurable and c.recall.high < _WEAK]:
        weak.sort(key=lambda c: c.recall.value)
        found.append(f"It misses many pictures of {named([_recall(c) for c in weak])}.")
    if duller := outcome.catalog.counts()["repaired"]:
        found.append(f"{duller:,} damaged pictures were used as far as they could be decoded.")
    return found


def _recall(score: ClassScore) -> str:
    return f"{score.name} (finds {score.recall.percent()})"


def _licences(outcome: Outcome) -> str:
    backbone = outcome.bundle.backbone
    known = "not known: ask where you have them from" if backbone.licence == "unknown" else backbone.licence
    return (
        f"The licence of the pretrained weights is {known} (commercial use: {backbone.commercial_use}). That of "
        "the pictures is yours to know, and goes on counting for what was learnt from them."
    )
