"""What a model says of itself to whoever asks the server: classes, card, scores with intervals, promises (P).

All of it comes from the model file. Numbers that are not finite become null, since JSON knows none.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from graftage.serve.bundle import Bundle

_NAMED = 12  # classes named in a sentence


def about(bundle: Bundle, name: str) -> dict[str, Any]:
    """The record that `GET /v1/model` answers.

    Args:
        bundle: the model.
        name: under which it is served.
    """
    known, decisions = bundle.neighbours, bundle.decisions
    record = {
        "name": name,
        "classes": list(bundle.classes),
        "card": [{"heading": heading, "text": text} for heading, text in card(bundle)],
        "scores": bundle.scores,
        "decisions": {**decisions.to_json(), "reasons": dict(decisions.reasons)},
        "learnt_from": {"pictures": bundle.data.get("n"), "class_counts": bundle.data.get("class_counts")},
        "similar": 0 if known is None else len(known.names),
        "backbone": {
            "id": bundle.backbone.id,
            "licence": bundle.backbone.licence,
            "precision": bundle.backbone.precision,
        },
        "created": bundle.created,
        "versions": bundle.versions,
    }
    return {key: plain(value) for key, value in record.items()}


def card(bundle: Bundle) -> list[tuple[str, str]]:
    """(heading, words) of a model card in small, after Mitchell et al. 2019, as far as the model file knows."""
    backbone, n = bundle.backbone, bundle.data.get("n")
    learnt = f"{n:,} labelled pictures" if isinstance(n, int) else "Labelled pictures"
    licence = "not known" if backbone.licence == "unknown" else backbone.licence
    return [
        (
            "Intended use",
            f"Names one of {len(bundle.classes):,} classes for a picture: {named(bundle.classes)}. It is meant for "
            "pictures taken as those it learnt from were.",
        ),
        ("Learnt from", f"{learnt}, on top of {_public(backbone.id)}, which was pretrained on {backbone.pretraining}."),
        ("Measured", str(bundle.scores.get("how", "")) or "The model file holds no scores."),
        ("Limits", "It always answers with one of its classes, also for a picture that shows none of them."),
        ("Licences", f"Of the pretrained weights: {licence}. That of the pictures goes on counting."),
    ]


def plain(value: object) -> object:
    """The value as JSON can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _public(name: str) -> str:
    """A network's name; of one from a file, without where that lay."""
    return PurePath(name).name if PurePath(name).is_absolute() else name


def named(names: Sequence[str]) -> str:
    """The first of some names, in a sentence; how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
