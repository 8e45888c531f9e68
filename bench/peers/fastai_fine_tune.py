"""fastai's `fine_tune` as its course teaches it, on the bundled EfficientNet-Lite0, in a given wall time.

Resize(224), aug_transforms(), fastai's own head, one frozen epoch at 2e-3, then as many unfrozen ones as fit in the
time, one at least: with that one it may overrun. How many fit is measured beforehand on a few batches of each kind,
outside of the time. Batches of 64; smaller where an epoch would have fewer than ten of them. There is no validation
while it trains: all pictures are learnt from and all the time is training's.

It also gets what its course does not mention but what makes it several times as fast on a CPU: fastai's ChannelsLast,
and from peers.py an allocator that keeps its memory.

Prints one line of JSON: accuracy and log-loss on test/, seconds of training, and how they were spent.
"""

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from common import ARCHITECTURE, HALF, SIZE, WORKERS, arguments, classes_of, files_of, load, prepare, report, scored
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback, CancelFitException, CancelValidException
from fastai.data.all import CategoryBlock, DataBlock, IndexSplitter
from fastai.vision.all import ImageBlock, Normalize, Resize, aug_transforms, vision_learner

BASE_LR = 2e-3
WARM, TIMED = 4, 8  # batches: the first ones wait in the loaders' queues before the clock starts
SLACK = 0.97  # of the time is planned


class NoValidation(Callback):
    """Leaves the validation after each epoch out."""

    def before_validate(self) -> None:
        """Ends the validation before it begins."""
        raise CancelValidException


class Clock(Callback):
    """Stops after a few batches, with the time of each."""

    def __init__(self) -> None:
        self.begun, self.times = 0.0, []

    def before_train(self) -> None:
        """An epoch begins: its loaders start now."""
        self.begun = time.perf_counter()

    def after_batch(self) -> None:
        """One more batch is done."""
        self.times.append(time.perf_counter())
        if len(self.times) >= WARM + TIMED:
            raise CancelFitException

    def epoch(self, batches: int) -> float:
        """Seconds that an epoch of so many batches takes, with the start of its loaders."""
        skipped = min(WARM, len(self.times) - 1)
        timed = len(self.times) - skipped
        start = self.times[skipped - 1] if skipped else self.begun
        each = (self.times[-1] - start) / timed
        waited = max(0.0, start - self.begun - skipped * each)
        return waited + batches * each


def loaders(folder: Path, classes: list[str], seed: int) -> Any:
    files, labels = files_of(folder / "train", classes)
    label = dict(zip(files, (classes[i] for i in labels), strict=True))
    batch = min(64, max(8, len(files) // 10))
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=classes, sort=False)),
        get_items=lambda _: files,
        get_y=lambda file: label[file],
        splitter=IndexSplitter([]),
        item_tfms=Resize(SIZE),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(HALF, HALF)],
    )
    return block.dataloaders(folder, bs=batch, num_workers=WORKERS, seed=seed)


def learner(dls: Any, weights: Path) -> Any:
    """As `vision_learner` makes it, with the bundled weights in place of downloaded ones."""
    found = vision_learner(dls, ARCHITECTURE, pretrained=False, normalize=False)
    load(found.model[0].model, weights)
    found.add_cb(ChannelsLast())
    found.freeze()
    return found


def speeds(dls: Any, weights: Path) -> tuple[float, float]:
    """Seconds of a frozen and an unfrozen epoch, from a few batches of a network that is thrown away."""
    found, clocks = learner(dls, weights), (Clock(), Clock())
    with found.no_bar(), found.no_logging():
        found.fit_one_cycle(1, BASE_LR, cbs=[clocks[0], NoValidation()])
        found.unfreeze()
        found.fit_one_cycle(1, slice(BASE_LR / 200, BASE_LR / 2), cbs=[clocks[1], NoValidation()])
    batches = len(dls.train)
    return clocks[0].epoch(batches), clocks[1].epoch(batches)


def main() -> None:
    args = arguments(__doc__).parse_args()
    warnings.simplefilter("ignore")
    prepare(args.seed)
    classes = classes_of(args.folder)
    frozen, unfrozen = speeds(loaders(args.folder, classes, args.seed), args.weights)
    epochs = max(1, int((SLACK * args.seconds - frozen) / unfrozen))
    print(
        f"frozen epoch {frozen:.0f} s, unfrozen epoch {unfrozen:.0f} s: {epochs} unfrozen", file=sys.stderr, flush=True
    )

    prepare(args.seed)
    start = time.perf_counter()
    dls = loaders(args.folder, classes, args.seed)
    found = learner(dls, args.weights)
    with found.no_bar(), found.no_logging():
        found.fine_tune(epochs, base_lr=BASE_LR, freeze_epochs=1, cbs=NoValidation())
    seconds = time.perf_counter() - start

    start = time.perf_counter()
    files, labels = files_of(args.folder / "test", classes)
    test = dls.test_dl(files, num_workers=WORKERS)
    with found.no_bar(), found.no_logging():
        logits, _ = found.get_preds(dl=test, act=torch.nn.Identity())
    report(
        {
            **scored(torch.as_tensor(logits), torch.tensor(labels)),
            "seconds": round(seconds, 1),
            "test_seconds": round(time.perf_counter() - start, 1),
            "frozen_epoch_seconds": round(frozen, 2),
            "unfrozen_epoch_seconds": round(unfrozen, 2),
            "batches": len(dls.train),
            "batch": dls.train.bs,
            "shipped": f"{epochs} unfrozen epochs of {len(dls.train)} batches of {dls.train.bs}",
        },
        "fastai",
        "torch",
        "timm",
    )


if __name__ == "__main__":
    main()
