"""The name of a network as it is used: which weights, what input size, how many of its maps, beside which other.

```
bundled/efficientnet_lite0            as it was pretrained
bundled/efficientnet_lite0@192        on squares of 192 pixels
bundled/efficientnet_lite0#2          its feature vector beside the mean of an earlier map
bundled/efficientnet_lite0#2@192      both
bundled/efficientnet_lite0+timm/resnet18.a1_in1k      two networks that look at the same square, features side by side
```
"""

import re
from dataclasses import dataclass
from pathlib import Path

from graftage.errors import BackboneError

LEAST_SIZE, LARGEST_SIZE = 32, 1024  # pixels: below, networks have no map left; above, one picture fills the memory
MOST_LAYERS = 4
MOST_NETWORKS = 3

_SUFFIX = re.compile(r"(?:@(?P<size>[0-9]{1,5})|#(?P<layers>[0-9]{1,3}))$")


@dataclass(frozen=True)
class Variant:
    """A network, or several side by side, as they are used.

    Attributes:
        ids: of the networks as they were pretrained.
        size: side of the square, pixels; None for that of the first network.
        layers: how many feature vectors are taken from each: 1 is its own last one alone.
    """

    ids: tuple[str, ...]
    size: int | None = None
    layers: int = 1

    @property
    def plain(self) -> bool:
        """Whether this is one network as it was pretrained."""
        return len(self.ids) == 1 and self.size is None and self.layers == 1

    @property
    def spec(self) -> str:
        """The name in its one canonical form; `parse` reads it."""
        layers = "" if self.layers == 1 else f"#{self.layers}"
        return "+".join(self.ids) + layers + ("" if self.size is None else f"@{self.size}")


def parse(spec: str) -> Variant:
    """Reads such a name; a file that exists under the whole of it is taken as that file.

    Raises:
        BackboneError: a size, number of layers or number of networks that cannot be.
    """
    if not re.search("[@#+]", spec) or Path(spec).exists():
        return Variant((spec,))
    rest, found = spec, dict[str, int]()
    while match := _SUFFIX.search(rest):
        (kind, value), *_ = ((kind, value) for kind, value in match.groupdict().items() if value)
        if kind in found:
            raise BackboneError(f"backbone {spec!r}: its {kind} is given twice")
        found[kind], rest = int(value), rest[: match.start()]
    size, layers = found.get("size"), found.get("layers", 1)
    if size is not None and not LEAST_SIZE <= size <= LARGEST_SIZE:
        raise BackboneError(f"backbone {spec!r}: its size must be {LEAST_SIZE} to {LARGEST_SIZE} pixels")
    if not 1 <= layers <= MOST_LAYERS:
        raise BackboneError(f"backbone {spec!r}: 1 to {MOST_LAYERS} layers can be taken, the last one included")
    ids = tuple(rest.split("+"))
    if not all(ids) or len(ids) > MOST_NETWORKS or len(set(ids)) < len(ids):
        raise BackboneError(f"backbone {spec!r}: name up to {MOST_NETWORKS} different networks, joined by +")
    return Variant(ids, size, layers)


def varied(spec: str, *, size: int | None = None, layers: int = 1) -> str:
    """The name of the same network at this size and with these layers, where they are given.

    Raises:
        BackboneError: `spec` itself already names another.
    """
    if size is None and layers == 1:
        return spec
    known = parse(spec)
    if size not in (None, known.size) and known.size is not None:
        raise BackboneError(f"backbone {spec!r} names its size already; leave out --img-size {size}")
    if layers not in (1, known.layers) and known.layers != 1:
        raise BackboneError(f"backbone {spec!r} names its layers already; leave out --layers {layers}")
    return Variant(known.ids, size or known.size, max(layers, known.layers)).spec


def joined(values: tuple[str, ...]) -> str:
    """What is said of several networks at once: each different word once, in order."""
    return " AND ".join(dict.fromkeys(values))


def output_of(layers: int) -> str:
    """What `BackboneInfo.output` says of this many layers."""
    return "pooled" if layers == 1 else f"layers{layers}"


def layers_of(output: str) -> int:
    """The inverse of `output_of`; 1 for an output that is no such."""
    return int(output.removeprefix("layers")) if re.fullmatch(f"layers[2-{MOST_LAYERS}]", output) else 1


def is_varied(architecture: str, output: str) -> bool:
    """Whether features are more than one network's own last vector: such a network is not tuned as a whole."""
    return "+" in architecture or layers_of(output) > 1
