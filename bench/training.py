"""Pictures per second of fine-tuning a whole network: a plain PyTorch loop against graftage's, on made-up pictures.

    python bench/training.py [--architecture tf_efficientnet_lite0] [--size 224] [--batch 32] [--steps 6]

Both see the same batches, already decoded, with batch normalisation frozen, AdamW and channels last; each side runs in
a process of its own, one after the other. The plain loop is written as one would by hand, once in float32 and once
under autocast in the precision that graftage takes here; what graftage does beside is then left out piece by piece.
"""

import argparse
import json
import subprocess
import sys
import time
from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from graftage.learn import faster, tune
from graftage.learn.defaults import recipe
from graftage.learn.network import Network, family_of, fresh_head
from graftage.learn.task import Task
from graftage.training import precision_on
from saved import machine

CLASSES = 10
SIDES = {
    "plain": "plain loop, float32",
    "plain-amp": "plain loop, mixed precision",
    "graftage": "graftage",
    "no-memory": "graftage without keeping memory",
    "no-fold": "graftage without folding norms",
    "no-depthwise": "graftage without its own depthwise gradients",
    "no-eager": "graftage with torch.compile",
}


def network(architecture: str) -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model(architecture, num_classes=0)


def plain(args: argparse.Namespace, device: str, amp: str) -> float:
    body = network(args.architecture)
    model = nn.Sequential(body, nn.Linear(body.num_features, CLASSES)).to(device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4)
    kind = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(amp)
    scaler = torch.amp.GradScaler("cuda", enabled=amp == "float16")
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    squares, labels = batch(args)

    def step() -> None:
        x = squares.to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
        with torch.autocast(device, kind) if kind else nullcontext():
            logits = model(x.contiguous(memory_format=torch.channels_last))
        loss = nn.functional.cross_entropy(logits.float(), labels.to(device))
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()

    return speed(step, args, device)


def ours(args: argparse.Namespace, device: str, amp: str, without: str) -> float:
    from graftage.learn.network import Normalised

    if without == "fold":
        tune.fold_frozen_norms = lambda *_: 0
    if without == "depthwise":
        tune.QuickDepthwise = nullcontext
    body = network(args.architecture)
    hyper = recipe("full", family=family_of(body, args.architecture), n=1000)
    half = np.full(3, 1 / 127.5, np.float32), np.full(3, -1, np.float32)
    model = Network(Normalised(body, *half), fresh_head(body.num_features, 0, CLASSES, seed=0), unit=True)
    squares, labels = batch(args)

    class Same:
        def training(self, rows: Any, _: int) -> torch.Tensor:
            return squares[: len(rows)]

        def plain(self, rows: Any) -> torch.Tensor:
            return squares[: len(rows)]

        def expect(self, _: Any, __: int) -> None:
            return

    rows = np.arange(args.batch)
    task = Task(model, Same(), labels.numpy(), CLASSES, rows, rows[:0], hyper, (), 0, device=device, amp=amp)
    task = tune.replace(task, compiled=without == "eager")
    training = tune.Training(tune.replace(task, recipe=tune.replace(hyper, epochs=10_000, batch_size=args.batch)))
    steps = training.run()
    with ExitStack() as stack:
        if without != "memory":
            stack.enter_context(faster.steady_memory())
        return speed(lambda: next(steps), args, device)


def batch(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    squares = torch.randint(0, 256, (args.batch, args.size, args.size, 3), generator=generator, dtype=torch.uint8)
    return squares, torch.randint(0, CLASSES, (args.batch,), generator=generator)


def speed(step: Any, args: argparse.Namespace, device: str) -> float:
    """Pictures per second, by the fastest of three rounds."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(2):
        step()
    seconds = []
    for _ in range(3):
        wait()
        start = time.perf_counter()
        for _ in range(args.steps):
            step()
        wait()
        seconds.append(time.perf_counter() - start)
    return args.batch * args.steps / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    amp = precision_on(device, "auto")
    if args.side:
        name, _, without = args.side.partition("-")
        found = (
            plain(args, device, amp if without else "none")
            if name == "plain"
            else ours(args, device, amp, without if name == "no" else "")
        )
        print(json.dumps(found))
        return
    print(machine("graftage", "torch", "timm"))
    print(f"{args.architecture}, {args.size} x {args.size}, batches of {args.batch}, {device}, {amp}")
    found = {}
    for side, name in SIDES.items():
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[side] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:<46} {found[side]:7.1f} pictures per second  {found[side] / found['plain']:.2f} x", flush=True)


if __name__ == "__main__":
    main()
