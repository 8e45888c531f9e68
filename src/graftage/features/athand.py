"""Whether the weights of a network are on this machine: looks into caches and packages, never into a network."""

import os
from pathlib import Path

from graftage.features.bundled import BUNDLED, bundled_path
from graftage.features.hub import WEIGHTS
from graftage.features.hubcache import find
from graftage.features.keras_itself import is_keras
from graftage.features.zoo import Facts


def at_hand(facts: Facts) -> bool:
    """Whether `find` would find the weights without a download: in a package, in the hub's cache or in Keras'."""
    if facts.id in BUNDLED:
        path = bundled_path(BUNDLED[facts.id])
        return path is not None and path.is_file()
    if not facts.hub:
        return False
    if is_keras(facts.id):
        return (Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models" / facts.hub).is_file()
    return any(find(facts.hub, name, None) for name in WEIGHTS)
