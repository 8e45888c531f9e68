"""All options of a training run in one record, and its round trip through `config.toml`."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Self, get_args, get_type_hints

from graftage.data.listing import Columns
from graftage.errors import OptionError
from graftage.features.zoo import GATES

FITS = ("auto", "crop", "squash", "pad")
RECIPES = ("auto", "linear", "classic", "tail", "full", "lora", "norm", "scratch")
COLUMNS = ("path_col", "label_col", "group_col", "split_col", "root")  # settings that say how a table is read
METRICS = ("accuracy", "balanced_accuracy", "macro_f1")

# What each choice may be; "" leaves it to graftage.
_CHOICES = {
    "licence": GATES,
    "fit": FITS,
    "recipe": RECIPES,
    "metric": METRICS,
    "opt": ("", "adamw", "adam", "sgd"),
    "aa": ("", "none", "classic", "crop", "trivial"),
    "amp": ("auto", "none", "bfloat16", "float16"),
    "bn": ("", "frozen", "batch"),
    "balance": ("", "none", "weights", "sampling"),
}
INFINITE = float("inf")
# Least and largest value of every number, both allowed; None, where a field may be None, leaves it to graftage.
RANGES = {
    "img_size": (32, 1024),
    "layers": (1, 4),
    "seed": (0, INFINITE),
    "workers": (0, INFINITE),
    "max_bytes": (1, INFINITE),
    "max_pixels": (1, INFINITE),
    "epochs": (1, 10_000),
    "batch_size": (1, 65_536),
    "lr": (1e-8, 10.0),
    "head_lr": (1e-8, 10.0),
    "weight_decay": (0.0, 1.0),
    "momentum": (0.0, 0.999),
    "layer_decay": (0.1, 1.0),
    "warmup": (0.0, 0.9),
    "clip_grad": (0.0, 1e6),
    "smoothing": (0.0, 0.9),
    "mixup": (0.0, 10.0),
    "cutmix": (0.0, 10.0),
    "drop_path": (0.0, 0.9),
    "model_ema_decay": (0.0, 0.99999),
    "patience": (0.0, 1.0),
    "crop_scale": (0.05, 1.0),
    "hflip": (0.0, 1.0),
    "vflip": (0.0, 1.0),
    "reprob": (0.0, 1.0),
    "views": (0, 64),
    "tail_share": (0.0, 1.0),
    "lora_rank": (1, 1024),
    "coverage": (0.5, 0.999),
    "max_error": (0.0001, 0.5),
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "": 1}


@dataclass(frozen=True)
class Settings:
    """What a training run is asked to do. Every field is a flag of `graftage train` and a line of `config.toml`.

    Attributes:
        data: folder of class folders, or of train/val/test folders of class folders; or a table (.csv, .tsv, .jsonl,
            .parquet), or a folder with a metadata.csv.
        output: folder that the run leaves; "" takes the next free name under runs/.
        backbone: id of the pretrained network, see `graftage backbones`; or "auto", which ranks what is at hand first.
        architecture: timm name, for a weights file whose own name does not tell it.
        img_size: side of the squares that the network sees, pixels; None takes that of its pretraining.
        layers: feature vectors taken from the network: 1, its own, or with N − 1 earlier maps' means beside it.
        licence: "", or what the licence of the network's weights must allow: "commercial" use in a product;
            "commercial-or-unknown" lets also pass what is not known, for someone who has read its terms.
        fit: "auto", or how every picture is made square: "crop", "squash" or "pad".
        test: "auto", "none" for cross-validation on all, or the share to lock away, above 0 and below 1.
        folds: "auto", or K or KxR: stratified K-fold, repeated R times.
        group_by: regular expression searched for in the pictures' paths below `data`; what its first group (or, without
            one, the whole match) says is the group, and a group is never on both sides of a split. "" groups nothing.
        path_col, label_col, group_col, split_col: columns of a table, "" takes one of a usual name such as "file_name",
            "label", "patient_id" and "split"; "none" no group or split. A group of the column is kept together as one
            of `group_by` is; given both, what either says belongs together does.
        root: of a table: the folder in which its paths begin; "" is the table's own.
        seed: of everything random.
        device: "auto", "cpu" or "cuda".
        precision: "auto", "float32" or "bfloat16", of the frozen network.
        workers: threads that decode; 0 means two more than there are cores.
        repair: use damaged pictures as far as they decode.
        max_bytes: largest file accepted.
        max_pixels: largest picture accepted.
        overwrite: replace a run that is already in `output`.
        recipe: how the network is adapted: "auto", "linear", "classic", "tail", "full", "lora", "norm" or "scratch".
        budget: time for the whole run, such as "30s", "10m" or "2h"; "" takes as long as the plan needs.
        metric: what is to be good: "accuracy", "balanced_accuracy" or "macro_f1"; the latter two balance the classes.
        coverage: promised share of pictures whose prediction set holds the true class.
        max_error: promised largest share of wrong answers among those on which the model does not abstain.
        resume: go on with the interrupted run of the same command.
        remember: keep names and features in small of training pictures in the model file, to show those most like a
            new one.
        track: loggers beside log.jsonl: "tensorboard", "wandb", "mlflow", joined by commas.
        epochs … torchcompile: hyperparameters of fine-tuning, see `learn.defaults.Recipe`; None or "" takes the default
            for the network's family and the data's size.
    """

    data: str
    output: str = ""
    backbone: str = "bundled/efficientnet_lite0"
    architecture: str = ""
    img_size: int | None = None
    layers: int = 1
    licence: str = ""
    fit: str = "auto"
    test: str = "auto"
    folds: str = "auto"
    group_by: str = ""
    path_col: str = ""
    label_col: str = ""
    group_col: str = ""
    split_col: str = ""
    root: str = ""
    seed: int = 42
    device: str = "auto"
    precision: str = "auto"
    workers: int = 0
    repair: bool = False
    max_bytes: int = 256 * 2**20
    max_pixels: int = 178_956_970
    overwrite: bool = False
    recipe: str = "auto"
    budget: str = ""
    metric: str = "accuracy"
    coverage: float = 0.9
    max_error: float = 0.01
    resume: bool = False
    remember: bool = True
    track: str = ""
    epochs: int | None = None
    batch_size: int | None = None
    opt: str = ""
    lr: float | None = None
    head_lr: float | None = None
    weight_decay: float | None = None
    momentum: float | None = None
    layer_decay: float | None = None
    warmup: float | None = None
    clip_grad: float | None = None
    smoothing: float | None = None
    mixup: float | None = None
    cutmix: float | None = None
    drop_path: float | None = None
    model_ema_decay: float | None = None
    patience: float | None = None
    aa: str = ""
    crop_scale: float | None = None
    hflip: float | None = None
    vflip: float | None = None
    reprob: float | None = None
    views: int | None = None
    tail_share: float | None = None
    lora_rank: int | None = None
    balance: str = ""
    bn: str = ""
    amp: str = "auto"
    torchcompile: bool = False

    def __post_init__(self) -> None:
        types = get_type_hints(type(self))
        for field in fields(self):
            value, wanted = getattr(self, field.name), _kinds(types[field.name])
            if type(value) is int and float in wanted:
                object.__setattr__(self, field.name, float(value))  # a whole number in a config file is one, too
            elif type(value) not in wanted:
                raise OptionError(f"{field.name} must be {_kind(wanted[0])}, got {value!r}")
        if not self.data:
            raise OptionError("data must name a folder of pictures")
        for name, allowed in _CHOICES.items():
            _require_choice(name, getattr(self, name), allowed)
        for name, (low, high) in RANGES.items():
            _require_range(name, getattr(self, name), low, high)
        self.seconds()
        self.test_share()
        self.fold_plan()
        self.grouping()

    def seconds(self) -> float | None:
        """The budget in seconds, None if there is none. Raises OptionError where it is no time."""
        if not self.budget:
            return None
        number, unit = self.budget.rstrip("smh"), self.budget[len(self.budget.rstrip("smh")) :]
        try:
            seconds = float(number) * _UNITS[unit]
        except (ValueError, KeyError):
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            raise OptionError(f"budget must be a time such as 30s, 10m or 2h, got {self.budget!r}")
        return seconds

    def test_share(self) -> float | None:
        """Share to lock away: None for "auto", 0 for "none". Raises OptionError where it is neither, nor a share."""
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
        """(folds, repeats), or None for "auto". Raises OptionError where it is neither."""
        if self.folds == "auto":
            return None
        k, _, r = self.folds.partition("x")
        if not (k.isascii() and k.isdigit() and (r or "1").isascii() and (r or "1").isdigit()):
            raise OptionError(f"folds must be auto, K or KxR such as 5 or 5x4, got {self.folds!r}")
        plan = int(k), int(r or 1)
        if not 2 <= plan[0] <= 1000 or not 1 <= plan[1] <= 1000:
            raise OptionError(f"folds must be 2 to 1000, repeated 1 to 1000 times, got {self.folds!r}")
        return plan

    def grouping(self) -> re.Pattern[str] | None:
        """The pattern of `group_by`, None if there is none. Raises OptionError where it is no regular expression."""
        try:
            return re.compile(self.group_by) if self.group_by else None
        except re.error as error:
            raise OptionError(
                f"group_by must be a regular expression such as '(patient[0-9]+)_', got {self.group_by!r} ({error})"
            ) from error

    def columns(self) -> Columns:
        """The columns of a table, as asked for."""
        return Columns(self.path_col, self.label_col, self.group_col, self.split_col, self.root)

    def to_toml(self) -> str:
        """The text of `config.toml`; `from_toml` reads it back to the same settings."""
        head = "# Repeats this run: graftage train -c config.toml\n"
        return head + "".join(
            f"{field.name} = {_literal(getattr(self, field.name))}\n"
            for field in fields(self)
            if getattr(self, field.name) is not None
        )

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


def settings_of(data: str | Path | Settings, options: Mapping[str, object]) -> Settings:
    """Settings for some pictures, or settings with some options changed; paths become text.

    Raises:
        OptionError: an unknown option, or one of a kind or value that it cannot have.
    """
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    known = vars(data) if isinstance(data, Settings) else {"data": str(data)}
    return Settings.from_mapping({**known, **plain}, source="train")


def columns_of(given: Mapping[str, str]) -> Columns:
    """Columns of a table, by the names of their settings. Raises OptionError for any other name."""
    if unknown := [name for name in given if name not in COLUMNS]:
        raise OptionError(f"unknown options {', '.join(unknown)}; columns of a table are {', '.join(COLUMNS)}")
    return Settings.from_mapping({"data": ".", **given}, source="columns").columns()


def read_config(path: Path) -> dict[str, object]:
    """The named values in a TOML file; file names that are no UTF-8 pass. Raises OptionError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError as error:
        raise OptionError(f"{path}: the config file cannot be read ({error.strerror})") from error
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"{path}: not a valid TOML file ({error})") from error


def _kinds(hint: object) -> tuple[type, ...]:
    """The types that a field may have, the one that is not None first."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint if isinstance(hint, type) else str,)


def plain_type(hint: object) -> type:
    """The type of a field's values where it is not None."""
    return _kinds(hint)[0]


def _kind(wanted: type) -> str:
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[wanted]


def _require_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value in allowed:
        return
    near = get_close_matches(value, allowed, n=1)
    hint = f" (did you mean {near[0]}?)" if near and near[0] else ""
    raise OptionError(f"{name} must be one of {', '.join(a for a in allowed if a)}, got {value!r}{hint}")


def _require_range(name: str, value: float | None, low: float, high: float) -> None:
    if value is None or low <= value <= high:
        return
    if high == INFINITE:
        raise OptionError(f"{name} must be {low} or more, got {value}")
    raise OptionError(
        f"{name} must be {low:g} to {high:g}, got {value}; the nearest allowed is {min(max(value, low), high):g}"
    )


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return '"' + "".join(_escaped(character) for character in str(value)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return f"\\u{ord(character):04x}" if ord(character) < 32 or ord(character) == 127 else character
