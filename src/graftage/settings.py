"""All options of a training run in one record, and its round trip through `config.toml`."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self, get_type_hints

from graftage.errors import OptionError

FITS = ("auto", "crop", "squash", "pad")


@dataclass(frozen=True)
class Settings:
    """What a training run is asked to do. Every field is a flag of `graftage train` and a line of `config.toml`.

    Attributes:
        data: folder of class folders, or of train/val/test folders of class folders.
        output: folder that the run leaves; "" takes the next free name under runs/.
        backbone: id of the pretrained network, see `graftage backbones`.
        architecture: timm name, for a weights file whose own name does not tell it.
        fit: "auto", or how every picture is made square: "crop", "squash" or "pad".
        test: "auto", "none" for cross-validation on all, or the share to lock away, above 0 and below 1.
        folds: "auto", or K or KxR: stratified K-fold, repeated R times.
        seed: of everything random.
        device: "auto", "cpu" or "cuda".
        precision: "auto", "float32" or "bfloat16", of the frozen network.
        workers: threads that decode; 0 means two more than there are cores.
        repair: use damaged pictures as far as they decode.
        max_bytes: largest file accepted.
        max_pixels: largest picture accepted.
        overwrite: replace a run that is already in `output`.
    """

    data: str
    output: str = ""
    backbone: str = "bundled/efficientnet_lite0"
    architecture: str = ""
    fit: str = "auto"
    test: str = "auto"
    folds: str = "auto"
    seed: int = 42
    device: str = "auto"
    precision: str = "auto"
    workers: int = 0
    repair: bool = False
    max_bytes: int = 256 * 2**20
    max_pixels: int = 178_956_970
    overwrite: bool = False

    def __post_init__(self) -> None:
        types = get_type_hints(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not types[field.name]:
                raise OptionError(f"{field.name} must be {_kind(types[field.name])}, got {value!r}")
        if not self.data:
            raise OptionError("data must name a folder of pictures")
        if self.fit not in FITS:
            raise OptionError(f"fit must be one of {', '.join(FITS)}, got {self.fit!r}")
        for name in ("seed", "workers"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("max_bytes", "max_pixels"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be 1 or more, got {getattr(self, name)}")
        self.test_share()
        self.fold_plan()

    def test_share(self) -> float | None:
        """Share to lock away: None for "auto", 0 for "none"."""
        if self.test in ("auto", "none"):
            return None if self.test == "auto" else 0.0
        try:
            share = float(self.test)
        except ValueError:
            share = -1.0
        if not 0 < share < 1:
            raise OptionError(f"test must be auto, none or a share such as 0.2, got {self.test!r}")
        return share

    def fold_plan(self) -> tuple[int, int] | None:
        """(folds, repeats), or None for "auto"."""
        if self.folds == "auto":
            return None
        k, _, r = self.folds.partition("x")
        if not (k.isascii() and k.isdigit() and (r or "1").isascii() and (r or "1").isdigit()):
            raise OptionError(f"folds must be auto, K or KxR such as 5 or 5x4, got {self.folds!r}")
        plan = int(k), int(r or 1)
        if not 2 <= plan[0] <= 1000 or not 1 <= plan[1] <= 1000:
            raise OptionError(f"folds must be 2 to 1000, repeated 1 to 1000 times, got {self.folds!r}")
        return plan

    def to_toml(self) -> str:
        """The text of `config.toml`; `from_toml` reads it back to the same settings."""
        head = "# Repeats this run: graftage train -c config.toml\n"
        return head + "".join(f"{field.name} = {_literal(getattr(self, field.name))}\n" for field in fields(self))

    @classmethod
    def from_mapping(cls, values: Mapping[str, object], *, source: str) -> Self:
        """Settings from named values, `source` says whose. Raises OptionError that lists every unknown name."""
        known = [field.name for field in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            near = [(name, get_close_matches(name, known, n=1)) for name in unknown]
            named = ", ".join(f"{name} (did you mean {close[0]}?)" if close else name for name, close in near)
            raise OptionError(f"{source}: unknown options {named}; known are {', '.join(known)}")
        if "data" not in values:
            raise OptionError(f"{source}: no data folder is named")
        checked: dict[str, Any] = dict(values)  # the constructor checks the types
        return cls(**checked)


def read_config(path: Path) -> dict[str, object]:
    """The named values in a TOML file; file names that are no UTF-8 pass. Raises OptionError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError as error:
        raise OptionError(f"{path}: the config file cannot be read ({error.strerror})") from error
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{path}: not a valid TOML file ({error})") from error


def _kind(hint: object) -> str:
    return {str: "text", int: "a whole number", bool: "true or false"}[hint if isinstance(hint, type) else str]


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return '"' + "".join(_escaped(character) for character in str(value)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return f"\\u{ord(character):04x}" if ord(character) < 32 or ord(character) == 127 else character
