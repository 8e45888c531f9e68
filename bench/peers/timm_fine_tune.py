"""The whole EfficientNet-Lite0 fine-tuned as timm's users do it, in a given wall time.

AdamW (weight decay 0.05, none on 1-D), cosine with warm-up over 10 %, label smoothing 0.1, random resized crop and
mirror, batches of 32, channels last. The learning rate is chosen of three by log-loss on a fifth of the training
pictures (500 at most): each gets a run of a sixth of the time with the whole schedule; what is left of the time trains
a new network on all pictures with the best one. The schedule follows the clock, so the time is used up and overrun by
one step at most. With --lr there is no choice and all the time trains one network. The test side is squashed.

Prints one line of JSON: accuracy and log-loss on test/, seconds of training, and how they were spent.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import timm
import torch
from common import ARCHITECTURE, HALF, SIZE, WORKERS, arguments, classes_of, files_of, load, prepare, report, scored
from PIL import Image
from timm.optim import param_groups_weight_decay
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

RATES = (1e-4, 3e-4, 1e-3)
BATCH, WEIGHT_DECAY, SMOOTHING, WARM_UP = 32, 0.05, 0.1, 0.1
SCALE = (0.35, 1.0)  # share of the picture that a random crop keeps
VALIDATION, MOST_VALIDATION = 0.2, 500

Rows = tuple[list[Path], list[int]]
BICUBIC = T.InterpolationMode.BICUBIC
FINISH = (T.ToTensor(), T.Normalize(HALF, HALF))
TRAIN = T.Compose([T.RandomResizedCrop(SIZE, scale=SCALE, interpolation=BICUBIC), T.RandomHorizontalFlip(), *FINISH])
SQUASH = T.Compose([T.Resize((SIZE, SIZE), interpolation=BICUBIC), *FINISH])


class Pictures(Dataset):  # type: ignore[type-arg]
    """Files with the numbers of their classes."""

    def __init__(self, rows: Rows, transform: T.Compose) -> None:
        self.files, self.labels, self.transform = *rows, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.files[i]) as image:
            return self.transform(image.convert("RGB")), self.labels[i]


def inner_split(rows: Rows, seed: int) -> tuple[Rows, Rows]:
    """(training, validation), stratified; validation is a fifth, 500 pictures at most, one of each class at least."""
    files, labels = rows
    share = min(VALIDATION, MOST_VALIDATION / len(files))
    rng, held = np.random.default_rng(seed), set[int]()
    for label in sorted(set(labels)):
        own = [i for i, other in enumerate(labels) if other == label]
        held |= set(rng.permutation(own)[: max(1, round(share * len(own)))].tolist())
    parts = ([i for i in range(len(files)) if i not in held], sorted(held))
    train, validation = (([files[i] for i in part], [labels[i] for i in part]) for part in parts)
    return train, validation


def network(classes: int, weights: Path) -> torch.nn.Module:
    model = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=classes)
    load(model, weights)
    model.reset_classifier(classes)  # PyTorch's own initial values: TensorFlow's are large where classes are few
    return model.to(memory_format=torch.channels_last)


def endless(rows: Rows) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Shuffled batches, epoch after epoch, from the same workers."""
    drop = len(rows[0]) > BATCH  # a last batch of one picture is no batch for BatchNorm
    loader = DataLoader(
        Pictures(rows, TRAIN), BATCH, shuffle=True, num_workers=WORKERS, drop_last=drop, persistent_workers=True
    )
    while True:
        yield from loader


def train(model: torch.nn.Module, rows: Rows, *, rate: float, seconds: float) -> int:
    """Trains until the time is up; the number of steps. The learning rate follows the share of the time gone."""
    start = time.perf_counter()
    optimiser = torch.optim.AdamW(param_groups_weight_decay(model, WEIGHT_DECAY), lr=rate)
    model.train()
    for steps, (pictures, labels) in enumerate(endless(rows)):
        gone = (time.perf_counter() - start) / seconds
        if gone >= 1 and steps:
            return steps
        factor = gone / WARM_UP if gone < WARM_UP else 0.5 * (1 + math.cos(math.pi * (gone - WARM_UP) / (1 - WARM_UP)))
        for group in optimiser.param_groups:
            group["lr"] = rate * max(factor, 1e-3)
        logits = model(pictures.to(memory_format=torch.channels_last))
        loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=SMOOTHING)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    raise AssertionError("the batches are endless")


def judged(model: torch.nn.Module, rows: Rows) -> dict[str, float]:
    """Accuracy and log-loss on pictures squashed to the square."""
    model.eval()
    loader = DataLoader(Pictures(rows, SQUASH), 2 * BATCH, num_workers=WORKERS)
    with torch.inference_mode():
        logits = [model(pictures.to(memory_format=torch.channels_last)) for pictures, _ in loader]
    return scored(torch.cat(logits), torch.tensor(rows[1]))


def chosen_rate(
    rows: Rows, classes: int, weights: Path, *, seconds: float, seed: int
) -> tuple[float, dict[str, float]]:
    """(best learning rate, log-loss of each), after a run of `seconds` with each."""
    inner, validation = inner_split(rows, seed)
    losses = {}
    for rate in RATES:
        prepare(seed)
        model = network(classes, weights)
        train(model, inner, rate=rate, seconds=seconds)
        losses[rate] = judged(model, validation)["log_loss"]
    return min(losses, key=losses.__getitem__), {f"{rate:g}": round(loss, 4) for rate, loss in losses.items()}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--lr", type=float, help="learning rate, in place of the choice")
    args = parser.parse_args()
    prepare(args.seed)
    classes = classes_of(args.folder)
    rows = files_of(args.folder / "train", classes)

    start = time.perf_counter()
    rate, tried = args.lr, {}
    if rate is None:
        rate, tried = chosen_rate(rows, len(classes), args.weights, seconds=args.seconds / 6, seed=args.seed)
    prepare(args.seed)
    model = network(len(classes), args.weights)
    left = args.seconds - (time.perf_counter() - start)
    begun = time.perf_counter()
    steps = train(model, rows, rate=rate, seconds=max(left, 1.0))
    seconds, last = time.perf_counter() - start, time.perf_counter() - begun

    start = time.perf_counter()
    found = judged(model, files_of(args.folder / "test", classes))
    epochs = steps * min(BATCH, len(rows[0])) / len(rows[0])
    report(
        {
            **found,
            "seconds": round(seconds, 1),
            "test_seconds": round(time.perf_counter() - start, 1),
            "step_seconds": round(last / steps, 4),
            "tried": tried,
            "shipped": f"lr {rate:g}, {epochs:.1f} epochs of the whole network",
        },
        "timm",
        "torch",
        "torchvision",
    )


if __name__ == "__main__":
    main()
