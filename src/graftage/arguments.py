"""A command line that is kind to those who come from other tools: what is not known is answered with what was meant.

Nothing is guessed silently: flags are not abbreviated, and whoever mistypes gets a sentence and exit status 2.
"""

import argparse
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice, takewhile
from typing import Any, Final, NoReturn, TypeVar

# Names that other tools have for what one of our flags or positional arguments does. Several are given in the order of
# preference; the first that a command has is named.
SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "--accelerator": ("--device",),
    "--arch": ("--architecture", "--backbone"),
    "--augment": ("--aa",),
    "--augmentation": ("--aa",),
    "--auto-augment": ("--aa",),
    "--base-lr": ("--lr",),
    "--base-model": ("--backbone",),
    "--batch": ("--batch-size",),
    "--bf16": ("--amp bfloat16", "--precision bfloat16"),
    "--bs": ("--batch-size",),
    "--checkpoint": ("--resume", "MODEL"),
    "--class-weight": ("--balance",),
    "--class-weights": ("--balance",),
    "--compare": ("--against",),
    "--compile": ("--torchcompile",),
    "--config-file": ("--config",),
    "--continue": ("--resume",),
    "--cross-validation": ("--folds",),
    "--cuda": ("--device cuda",),
    "--cutmix-alpha": ("--cutmix",),
    "--cv": ("--folds",),
    "--data": ("PHOTOS", "PATH"),
    "--data-dir": ("PHOTOS", "PATH", "--data"),
    "--data-path": ("PHOTOS", "PATH", "--data"),
    "--dataset": ("PHOTOS", "PATH", "--data"),
    "--early-stopping": ("--patience",),
    "--ema": ("--model-ema-decay",),
    "--ema-decay": ("--model-ema-decay",),
    "--epoch": ("--epochs",),
    "--exist-ok": ("--overwrite",),
    "--files": ("PATH", "PHOTOS"),
    "--flip": ("--hflip",),
    "--fliplr": ("--hflip",),
    "--flipud": ("--vflip",),
    "--force": ("--overwrite",),
    "--fp16": ("--amp float16",),
    "--gpu": ("--device cuda",),
    "--gpus": ("--device cuda",),
    "--grad-clip": ("--clip-grad",),
    "--gradient-clip": ("--clip-grad",),
    "--half": ("--precision", "--amp"),
    "--image-dir": ("PHOTOS", "PATH"),
    "--image-size": ("--img-size",),
    "--images": ("PATH", "PHOTOS"),
    "--imgsz": ("--img-size",),
    "--input": ("PATH", "PHOTOS"),
    "--input-size": ("--img-size",),
    "--k-fold": ("--folds",),
    "--kfold": ("--folds",),
    "--label-smoothing": ("--smoothing",),
    "--learning-rate": ("--lr",),
    "--logger": ("--track",),
    "--lr0": ("--lr",),
    "--max-epochs": ("--epochs",),
    "--max-grad-norm": ("--clip-grad",),
    "--max-time": ("--budget",),
    "--mixed-precision": ("--amp", "--precision"),
    "--mixup-alpha": ("--mixup",),
    "--model": ("MODEL", "--backbone"),
    "--model-name": ("--backbone", "MODEL"),
    "--model-path": ("MODEL", "--backbone"),
    "--name": ("--output",),
    "--net": ("--backbone",),
    "--network": ("--backbone",),
    "--no-amp": ("--amp none",),
    "--num-epochs": ("--epochs",),
    "--num-folds": ("--folds",),
    "--num-train-epochs": ("--epochs",),
    "--num-workers": ("--workers",),
    "--optim": ("--opt",),
    "--optimizer": ("--opt",),
    "--out": ("--output",),
    "--out-dir": ("--output",),
    "--output-dir": ("--output",),
    "--per-device-train-batch-size": ("--batch-size",),
    "--pretrained": ("--backbone",),
    "--project": ("--output",),
    "--random-erase": ("--reprob",),
    "--random-seed": ("--seed",),
    "--random-state": ("--seed",),
    "--report-to": ("--track",),
    "--run-dir": ("--output",),
    "--save-dir": ("--output",),
    "--source": ("PATH", "PHOTOS"),
    "--stochastic-depth": ("--drop-path",),
    "--test-size": ("--test",),
    "--test-split": ("--test",),
    "--threads": ("--workers",),
    "--time": ("--budget",),
    "--time-limit": ("--budget",),
    "--train-batch-size": ("--batch-size",),
    "--train-dir": ("PHOTOS",),
    "--val-split": ("--test",),
    "--validation-split": ("--test",),
    "--wandb": ("--track wandb",),
    "--warmup-epochs": ("--warmup",),
    "--warmup-ratio": ("--warmup",),
    "--wd": ("--weight-decay",),
    "--weights": ("MODEL", "--backbone"),
}
_COMMANDS: Final[dict[str, str]] = {
    "classify": "predict",
    "diff": "compare",
    "eval": "evaluate",
    "finetune": "train",
    "fit": "train",
    "infer": "predict",
    "inference": "predict",
    "learning-curve": "curve",
    "list-models": "backbones",
    "models": "backbones",
    "score": "evaluate",
    "test": "evaluate",
    "val": "evaluate",
    "validate": "evaluate",
}
_LIKE: Final = 0.7  # how much alike two names must be, 0 to 1, for one to be taken for the other mistyped

N = TypeVar("N")


class KindParser(argparse.ArgumentParser):
    """A parser that says what was probably meant, in one sentence instead of a page of usage."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: N | None = None) -> Any:  # type: ignore[override]
        """As of argparse, but arguments and flags may come in any order, and what is not known is an error at once."""
        given = list(sys.argv[1:] if args is None else args)
        ordered = given if self._has_commands() else self._ordered(given)
        found, unknown = super().parse_known_args(ordered, namespace)
        if unknown:
            self.error(self._unrecognized(unknown))
        return found, unknown

    def _has_commands(self) -> bool:
        return any(action.nargs == argparse.PARSER for action in self._actions)

    def _ordered(self, given: Sequence[str]) -> list[str]:
        """The same words, those without a flag together: argparse fills MODEL and PATH... from the first of them alone.

        They come first, or, if there is a "--", last and behind it, since what it guards may look like flags.
        """
        end = given.index("--") if "--" in given else len(given)
        places: list[str] = []
        flags: list[list[str]] = []  # each with its values
        words = deque(given[:end])
        while words:
            word = words.popleft()
            if self._like_flag(word):
                flags.append([word, *self._values(word, words)])
            else:
                places.append(word)
        guarded = given[end + 1 :]
        places += self._given_back(flags, len(places) + len(guarded))
        flat = [word for flag in flags for word in flag]
        return [*flat, "--", *places, *guarded] if guarded else [*places, *flat]

    def _given_back(self, flags: Sequence[list[str]], places: int) -> list[str]:
        """Takes off the last values of a flag that takes any number, where arguments would be missing without them."""
        missing = sum(1 for action in self._actions if not action.option_strings and action.nargs is None) - places
        for flag in reversed(flags):
            action = self._last_of(flag[0])
            if action is not None and action.nargs in (argparse.ONE_OR_MORE, argparse.ZERO_OR_MORE):
                begin = max(len(flag) - max(missing, 0), 2)
                back = flag[begin:]
                del flag[begin:]
                return back
        return []

    def _values(self, flag: str, words: deque[str]) -> list[str]:
        """Takes off the words that are values of the flag before them."""
        action = self._last_of(flag)
        nargs = 0 if action is None else action.nargs
        most = nargs if isinstance(nargs, int) else 1 if nargs in (None, argparse.OPTIONAL) else len(words)
        values = list(takewhile(lambda word: not self._like_flag(word), islice(words, most)))
        if action is not None and nargs == argparse.OPTIONAL and not all(self._can_be(action, word) for word in values):
            return []
        return [words.popleft() for _ in values]

    def _last_of(self, flag: str) -> argparse.Action | None:
        """What takes the words that follow: -o of "-o", -o of "-0o"; None for --flag=value and -ovalue."""
        while flag not in self._option_string_actions and len(flag) > 2:
            first = self._option_string_actions.get(flag[:2])
            if first is None or first.nargs != 0:
                return None
            flag = f"-{flag[2:]}"
        return self._option_string_actions.get(flag)

    def _can_be(self, action: argparse.Action, word: str) -> bool:
        """Whether a flag that may stand alone takes the word for its value: else it is an argument of its own."""
        try:
            self._get_value(action, word)
        except argparse.ArgumentError:
            return False
        return True

    def _like_flag(self, word: str) -> bool:
        """Whether argparse takes the word for a flag, known or not."""
        return self._parse_optional(word) is not None

    def error(self, message: str) -> NoReturn:
        """Says what is wrong and where help is; leaves with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n({self.prog} --help lists what there is)\n")

    def _unrecognized(self, unknown: Sequence[str]) -> str:
        flags = [word for word in unknown if _is_flag(word)]
        meant = {flag: self._meant(flag) for flag in flags}
        if len(flags) < 2:
            hints = list(meant.values())
        else:
            hints = [f"{hint} for {flag.partition('=')[0]}" for flag, hint in meant.items() if hint]
        named = f"unrecognized arguments: {' '.join(flags or unknown)}"  # a flag's value is not what is wrong
        return "; did you mean ".join([named, ", ".join(filter(None, hints))]) + "?" if any(hints) else named

    def _meant(self, flag: str) -> str:
        """The flag, or the argument without a flag, that is probably meant; "" if nothing is near."""
        known = {name for action in self._actions for name in action.option_strings}
        places = {place: f"{place} without a flag" for place in self._places()}
        name = "--" + flag.partition("=")[0].lstrip("-").replace("_", "-").lower()
        candidates = [name, *SYNONYMS.get(name, ()), *_longer(name, known)]
        for candidate in candidates:
            if candidate.split()[0] in known:
                return candidate
            if candidate in places:
                return places[candidate]
        return next(iter(get_close_matches(name, sorted(known), n=1, cutoff=_LIKE)), "")

    def _places(self) -> Iterable[str]:
        return (str(action.metavar) for action in self._actions if not action.option_strings and action.metavar)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As of argparse, with the nearest choice at the end of the sentence."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = _nearest(str(value), [str(choice) for choice in action.choices or ()])
            hint = f"; did you mean {near}?" if near else ""
            raise argparse.ArgumentError(action, f"{error.message}{hint}") from None


def _is_flag(word: str) -> bool:
    return word.startswith("-") and word.lstrip("-")[:1].isalpha()


def _longer(name: str, known: Iterable[str]) -> list[str]:
    """Flags that begin with the name, the shortest first: what others would take as an abbreviation."""
    return sorted((flag for flag in known if len(name) > 3 and flag.startswith(name)), key=lambda f: (len(f), f))


def _nearest(word: str, choices: Sequence[str]) -> str:
    known = _COMMANDS.get(word.lower(), "")
    if known in choices:
        return known
    return next(iter(get_close_matches(word.lower(), choices, n=1, cutoff=0.6)), "")
