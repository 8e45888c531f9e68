"""Settings as flags of the command line: names, what they say of themselves, and which command listens to which."""

import argparse
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, get_type_hints

from graftage.features.zoo import GATES
from graftage.settings import COLUMNS, FITS, RECIPES, Settings, plain_type

ALL = tuple(field.name for field in fields(Settings) if field.name != "data")
_HELP = {
    "output": ("-o", "RUN", "folder that the run leaves (default: the next free name under runs/)"),
    "backbone": ("", "ID", "pretrained network, or auto (default: bundled/efficientnet_lite0); see graftage backbones"),
    "img_size": ("", "PIXELS", "side of the squares that the network sees (default: that of its pretraining)"),
    "layers": ("", "N", "feature vectors taken from the network: 1, or 2 to 4 with earlier maps beside (default 1)"),
    "architecture": ("", "NAME", "timm name of the network, for a weights file whose own name does not tell it"),
    "licence": ("", "GATE", f"refuse weights that may not be used so: {' or '.join(GATES[1:])} (default: none)"),
    "fit": ("", "HOW", f"how a picture is made square: {', '.join(FITS)} (default: auto, by cross-validation)"),
    "test": ("", "SHARE", "auto, none (cross-validation on all), or a share to lock away such as 0.2 (default: auto)"),
    "folds": ("", "KxR", "folds that choose the head, such as 5 or 5x4 (default: auto)"),
    "group_by": ("", "PATTERN", "regular expression on paths; pictures whose first group is the same stay together"),
    "path_col": ("", "NAME", "of a table: column of the pictures' files (default: file_name or another usual name)"),
    "label_col": (
        "",
        "NAME",
        "of a table: column of the labels (default: label, class, …), or A,B,… of 0 and 1 for each class",
    ),
    "group_col": ("", "NAME", "of a table: column of what stays together, or none (default: group, patient_id, …)"),
    "split_col": ("", "NAME", "of a table: column of train, val and test, or none (default: split, set or subset)"),
    "root": ("", "FOLDER", "of a table: the folder in which its paths begin (default: the table's own)"),
    "seed": ("", "N", "of everything random (default: 42)"),
    "device": ("", "WHERE", "auto, cpu or cuda (default: auto)"),
    "precision": ("", "KIND", "auto, float32 or bfloat16, of the frozen network (default: auto)"),
    "workers": ("-j", "N", "threads that decode (default: two more than there are cores)"),
    "repair": ("", "", "use truncated pictures as far as they decode, instead of leaving them out"),
    "max_bytes": ("", "N", "largest file accepted, bytes (default: 256 MiB)"),
    "max_pixels": ("", "N", "largest picture accepted, pixels (default: 179 million)"),
    "overwrite": ("", "", "replace the run that is already in RUN"),
    "recipe": ("", "HOW", f"how the network is adapted: {', '.join(RECIPES)} (default: auto)"),
    "budget": ("", "TIME", "time for the whole run: 30s, 10m, 2h (default: as long as the plan needs)"),
    "metric": (
        "",
        "NAME",
        "accuracy, balanced_accuracy or macro_f1; the latter two balance classes (default: accuracy)",
    ),
    "coverage": ("", "SHARE", "how often prediction sets shall hold the true class (default: 0.9)"),
    "max_error": ("", "SHARE", "largest error among the answers that are not marked as unsure (default: 0.01)"),
    "resume": ("", "", "go on with the interrupted run of the same command"),
    "remember": ("", "", "keep training pictures in small in the model file, for explain and to know copies of them"),
    "track": ("", "LIST", "loggers beside log.jsonl: tensorboard, wandb, mlflow, joined by commas"),
    "epochs": ("", "N", "passes over the pictures (default, as for all below: by network family, data size, budget)"),
    "batch_size": ("-b", "N", "pictures per step, over all processes"),
    "opt": ("", "NAME", "adamw, adam or sgd"),
    "lr": ("", "X", "peak learning rate of the last layers of the network"),
    "head_lr": ("", "X", "peak learning rate of the head"),
    "weight_decay": ("", "X", "of matrices and kernels; biases and norms have none"),
    "momentum": ("", "X", "of sgd"),
    "layer_decay": ("", "X", "factor on the learning rate from a layer to the one before it"),
    "warmup": ("", "SHARE", "share of the steps in which the learning rate rises"),
    "clip_grad": ("", "X", "largest norm of the gradient; 0 clips nothing"),
    "smoothing": ("", "X", "label smoothing"),
    "mixup": ("", "A", "alpha of mixup; 0 is off"),
    "cutmix": ("", "A", "alpha of cutmix; 0 is off"),
    "drop_path": ("", "X", "stochastic depth"),
    "model_ema_decay": ("", "X", "decay of the moving average of the weights; 0 keeps none"),
    "patience": ("", "SHARE", "stop after this share of the epochs without a better log-loss; 0 never stops"),
    "aa": ("", "KIND", "augmentation: none, classic, crop or trivial (TrivialAugment)"),
    "crop_scale": ("", "SHARE", "least share of the picture that a random crop keeps"),
    "hflip": ("", "P", "chance of a left-right flip (default: 0.5 unless flips change the label)"),
    "vflip": ("", "P", "chance of an upside-down flip"),
    "reprob": ("", "P", "chance of random erasing"),
    "views": ("", "N", "augmented views of each picture that are kept for the tail"),
    "tail_share": ("", "SHARE", "share of the network's work that the tail is"),
    "lora_rank": ("", "R", "rank of the adapters"),
    "balance": ("", "HOW", "none, weights or sampling: how rare classes are made up for"),
    "bn": ("", "HOW", "batch normalisation's statistics: frozen or batch"),
    "amp": ("", "KIND", "mixed precision: auto, none, bfloat16 or float16 (default: auto)"),
    "torchcompile": ("", "", "compile the network with torch.compile"),
}

# what of `_HELP` decides what the network sees
_NETWORK = ("backbone", "architecture", "img_size")
PREVIEWED = (*_NETWORK, "fit", "aa", "crop_scale", "hflip", "vflip", "reprob", "seed", "repair", *COLUMNS)
# what of `_HELP` the learning curve listens to
CURVED = (*_NETWORK, "layers", "licence", "fit", "seed", "device", "precision", "workers", "repair", *COLUMNS)
# what of `_HELP` a ranking listens to
RANKED = (
    *(
        "budget",
        "architecture",
        "licence",
        "fit",
        "test",
        "group_by",
        "seed",
        "device",
        "precision",
        "workers",
        "repair",
    ),
    *COLUMNS,
)
# what of `_HELP` decides what a check sees
CHECKED = (*_NETWORK, "layers", "licence", "seed", "device", "precision", "workers", "repair", *COLUMNS)


def add_flags(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Gives a command the flags of these settings; what is not given is None."""
    hints = get_type_hints(Settings)
    for name in names:
        short, metavar, text = _HELP[name]
        spelt = [part for part in (short, "--" + name.replace("_", "-")) if part]
        if (kind := plain_type(hints[name])) is bool:
            parser.add_argument(*spelt, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            parser.add_argument(*spelt, dest=name, type=kind, default=None, metavar=metavar, help=text)


def given_flags(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Those of the settings that the user has given, by name."""
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}
