"""Rules of thumb as functions of the data's size, each with where it comes from. No data is looked at here."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Measured = Literal["test", "cross-validation"]

# From here on a fifth locked away still leaves an interval of about ±2 points at 90 %; below, cross-validation on all
# pictures with the correction for selection is the sharper number (Tsamardinos et al. 2018).
LOCKED_FROM = 2000
_LARGE = 20_000

# A kernel head up to so many pictures keeps them all; above, it keeps this many of them as landmarks (Nyström;
# Williams & Seeger 2001). Eigendecompositions cost n³: 2,500 is about four seconds on two cores.
EXACT_KERNEL = 2500
LANDMARKS = 2048

# Up to so many pictures the arc-cosine kernel is tried beside the gaussian one. On the sets of `bench/accuracy.py` it
# never came out ahead of it, and from here on it would cost seconds.
ARC_COSINE = 1000

# Crop, squash or pad is chosen on all pictures up to LOCKED_FROM (so that the corrected estimate sees the choice) and
# on so many of the training pictures above.
FIT_SAMPLE = 1000

# Multinomial logistic regression is tried while n·D·K·folds stays below this: about a minute on two cores.
LOGISTIC_BUDGET = 4e9


@dataclass(frozen=True)
class Plan:
    """How a set of n pictures is to be measured.

    Attributes:
        test_fraction: share locked away as a test set; 0 means cross-validation on all.
        folds: k of the stratified k-fold that chooses the head.
        repeats: how often the folds are drawn anew.
    """

    test_fraction: float
    folds: int
    repeats: int


def plan(n: int) -> Plan:
    """The split rule by number of usable pictures: repeated folds when small, a locked test set when large."""
    if n < LOCKED_FROM:
        return Plan(0.0, 5, 10 if n <= 100 else 4)
    return Plan(0.2 if n < _LARGE else 0.1, 5 if n < _LARGE else 3, 1)


def ridge_path(scale: float) -> NDArray[np.float64]:
    """Penalties λ (8,) around what unit-length features of pretrained networks need.

    Args:
        scale: mean of the diagonal of the centred kernel; 0, where all pictures are alike, counts as 1. On the sets of
            `bench/accuracy.py` the best λ lay between 0.01 and 3 times it, so two to a decade from 0.003 to 10.
    """
    return (scale or 1.0) * np.logspace(-2.5, 1.0, 8)


def logistic_path() -> NDArray[np.float64]:
    """Inverse penalties C (8,) for unit-length features."""
    return np.logspace(-0.5, 3, 8)


def neighbours(n: int, n_classes: int) -> int:
    """k of the nearest-neighbour baseline: 5 with few pictures per class, else 20 (Caron et al. 2021 use 20)."""
    return 5 if n / n_classes < 10 else 20


Family = Literal["batchnorm", "layernorm", "selfsupervised", "plain"]
Trainable = Literal["head", "tail", "all", "norm", "lora"]
Balance = Literal["none", "weights", "sampling"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a network is tuned; one loop obeys it.

    Attributes:
        name: "classic", "tail", "full", "lora", "norm" or "scratch".
        trainable: which parameters move.
        pretrained: whether the network starts from its pretrained weights, or from random ones.
        hidden: width of the head's hidden layer; 0 is a linear head on features of length 1.
        epochs: passes over the pictures.
        batch_size: pictures per step, over all processes.
        opt: "adamw", "adam" or "sgd" (Nesterov).
        lr: peak learning rate of the last layers of the network.
        head_lr: peak learning rate of the head.
        layer_decay: factor from a layer to the one before it.
        weight_decay: of tensors with two or more axes; others have none.
        momentum: of sgd.
        warmup: share of the steps in which the rate rises from 0; a cosine to 0 follows.
        clip_grad: largest norm of the gradient, 0 for none.
        smoothing: label smoothing.
        mixup, cutmix: alphas; 0 is off.
        drop_path: stochastic depth.
        ema: decay of the moving average of the weights, 0 for none.
        patience: share of the epochs without a better held-out log-loss after which to stop; 0 never stops.
        frozen_statistics: batch normalisation keeps its pretrained mean and variance.
        views: augmented views of each picture kept for a frozen first part; 0 draws anew in every epoch.
        tail_share: share of the network's multiplications that the tail is, where `trainable` is "tail".
        lora_rank: of the adapters.
        aa: augmentation, see `learn.augment.Augment.kind`.
        crop_scale: least share of the picture that a random crop keeps; a defect that is cropped away is a wrong label,
            so it is far from torchvision's 0.08, which is for a million pictures.
        hflip, vflip, reprob: chances of flips and of random erasing.
        balance: how rare classes are made up for.
    """

    name: str
    trainable: Trainable
    pretrained: bool = True
    hidden: int = 0
    epochs: int = 12
    batch_size: int = 32
    opt: str = "adamw"
    lr: float = 1e-3
    head_lr: float = 1e-3
    layer_decay: float = 0.7
    weight_decay: float = 0.01
    momentum: float = 0.9
    warmup: float = 0.1
    clip_grad: float = 1.0
    smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    drop_path: float = 0.0
    ema: float = 0.0
    patience: float = 0.0
    frozen_statistics: bool = True
    views: int = 0
    tail_share: float = 0.0
    lora_rank: int = 8
    aa: str = "crop"
    crop_scale: float = (
        0.7  # a defect that is cropped away is a wrong label; torchvision's 0.08 is for a million pictures
    )
    hflip: float = 0.5
    vflip: float = 0.0
    reprob: float = 0.0
    balance: Balance = "none"


# Peak learning rate of the last layers at batch 32, layer decay, weight decay, with AdamW. Transformers and ConvNeXt:
# ConvNeXt's TRAINING.md has 5e-5 and 0.7 to 0.8, AutoGluon 1e-4 and 0.9. Self-supervised: MAE's FINETUNE.md has 1e-3 at
# batch 1024 and 0.65 to 0.75. Batch-normalised networks take more, since every layer is normalised. Tried with
# EfficientNet-Lite0 on one fold of the training pictures, none of them scored: full, solar cells, 5 or 6 epochs, 1e-3
# 87.3 %, 3e-4 85.8 %; hand signs, 4 epochs, 1e-3 99.3 %, 3e-4 98.0 %.
_RATES: dict[Family, tuple[float, float, float]] = {  # lr, layer decay, weight decay
    "batchnorm": (1e-3, 0.7, 0.01),
    "layernorm": (1e-4, 0.8, 0.01),
    "selfsupervised": (1e-4, 0.7, 0.05),
    "plain": (1e-4, 0.8, 0.01),
}
# Pictures below which the statistics of batch normalisation stay frozen (Kornblith et al. 2019, appendix).
_SMALL = 5000
# The average of the weights over about the last hundred steps. On one fold of flowers5 it took the held-out log-loss
# from 0.557 to 0.548, and the first epochs from far below the head to beside it.
_AVERAGED = 0.99


# Of a network's work, that of its tail. On one fold of the solar cells, at equal time: 0.59 88.6 %, 0.37 87.1 %.
_TAIL = 0.59


def recipe(name: str, *, family: Family, n: int, balanced: bool = False) -> Recipe:
    """The hyperparameters of a recipe for n pictures and a family of networks.

    Args:
        name: "classic", "tail", "full", "lora", "norm" or "scratch".
        family: of the network.
        n: pictures that are learnt from.
        balanced: whether the metric asked for counts classes alike; then rare ones get more weight.
    """
    lr, layer_decay, weight_decay = _RATES[family]
    balance: Balance = "weights" if balanced else "none"
    frozen = n < _SMALL or family != "batchnorm"
    epochs = 20 if n < 500 else 12 if n < 20_000 else 6
    drop_path = 0.1 if family in ("layernorm", "selfsupervised") else 0.0
    common = Recipe(
        name,
        "all",
        epochs=epochs,
        lr=lr,
        head_lr=lr,
        layer_decay=layer_decay,
        weight_decay=weight_decay,
        balance=balance,
        frozen_statistics=frozen,
        ema=_AVERAGED if frozen else 0.0,  # running statistics would not be those of the averaged weights
    )
    if name == "tail":
        return replace(common, trainable="tail", views=6, tail_share=_TAIL, frozen_statistics=True, ema=_AVERAGED)
    if name == "full":
        return replace(common, drop_path=drop_path)
    if name == "norm":  # Basu et al. 2024 tune LayerNorm alone at about ten times the rate of all weights
        return replace(common, trainable="norm", lr=5 * lr, layer_decay=1.0)
    if name == "lora":  # Hu et al. 2022; rates as in Mai et al. 2025 (1e-3 to 1e-2)
        return replace(common, trainable="lora", lr=1e-3, layer_decay=1.0)
    if name == "scratch":
        return replace(
            common,
            pretrained=False,
            lr=1e-3,
            head_lr=1e-3,
            layer_decay=1.0,
            weight_decay=0.05,
            epochs=4 * epochs,
            crop_scale=0.35,
            frozen_statistics=False,
            ema=0.0,
        )
    if name == "classic":  # Chollet 2016, "Building powerful image classification models using very little data"
        return replace(
            common,
            trainable="head",
            hidden=1024,
            opt="adam",
            lr=1e-4,
            head_lr=1e-4,
            weight_decay=0.0,
            clip_grad=0.0,
            warmup=0.0,
            aa="classic",
            views=4,
            ema=0.0,
        )
    raise ValueError(f"no recipe is called {name!r}")
