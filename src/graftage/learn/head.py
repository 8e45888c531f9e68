"""The classifier on frozen features: a linear layer, or a kernel expansion that carries the pictures it needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from graftage.learn.gram import Floats, Reals, chunks

Transform = Literal["unit", "root"]
Kernel = Literal["arc-cosine", "gaussian"]

TRANSFORMS: tuple[Transform, ...] = ("root", "unit")


def transform(X: Reals, kind: Transform) -> NDArray[np.float32]:
    """Features (n, D) → float32 (n, D), each row of length 1; row by row, so nothing leaks between folds.

    "root" first takes the signed square root, which tempers the few large activations of a pooled network (the power
    transform of Perronnin et al. 2010); "unit" leaves them.
    """
    out = np.array(X, dtype=np.float32)
    for rows in chunks(len(out), out.shape[1]):
        part = out[rows]
        if kind == "root":
            part[:] = np.sign(part) * np.sqrt(np.abs(part))
        part /= np.maximum(np.sqrt(np.einsum("nd,nd->n", part, part))[:, None], np.float32(1e-12))
    return out


@dataclass(frozen=True, eq=False)
class Head:
    """A classifier on features: transform, then a linear layer or a kernel expansion on kept pictures.

    Attributes:
        kind: "linear": z = W t(x) + b; "kernel": z = k(t(x), support) a + b.
        transform: t.
        kernel: which k, for kind "kernel"; "" for "linear".
        scale: mean squared distance that the gaussian kernel is measured in; 1 otherwise.
        weights: float32 (K, D) for "linear"; (K, m), the transpose of a, for "kernel".
        bias: float32 (K,).
        support: float32 (m, D) transformed features of kept pictures; (0, D) for "linear".
    """

    kind: Literal["linear", "kernel"]
    transform: Transform
    kernel: Kernel | Literal[""]
    scale: float
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    support: NDArray[np.float32]

    @property
    def features(self) -> int:
        """D."""
        return int(self.support.shape[1])

    @property
    def n_classes(self) -> int:
        """K."""
        return len(self.bias)

    def logits(self, X: Reals) -> Floats:
        """Features (n, D) → logits (n, K), float64.

        Row by row in one thread: the same picture gets the same bits whatever company or machine load it has.
        """
        rows = transform(X, self.transform)
        with _controller().limit(limits=1, user_api="blas"):
            out = [self._row(row) for row in rows]
        return np.array(out, dtype=np.float64).reshape(len(rows), self.n_classes)

    def _row(self, row: NDArray[np.float32]) -> Floats:
        if self.kind == "linear":
            return np.asarray(self.weights @ row + self.bias, dtype=np.float64)
        inner = (self.support @ row).astype(np.float64)  # (m,)
        values = kernel_of_inner(inner, _kernel_named(self.kernel), self.scale)
        return np.asarray(self.weights.astype(np.float64) @ values + self.bias, dtype=np.float64)

    def to_json(self) -> dict[str, object]:
        """Everything that is not a tensor."""
        return {"kind": self.kind, "transform": self.transform, "kernel": self.kernel, "scale": self.scale}

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """The tensors, by name."""
        return {"weights": self.weights, "bias": self.bias, "support": self.support}

    @classmethod
    def from_parts(cls, values: Mapping[str, object], tensors: Mapping[str, NDArray[np.generic]]) -> Self:
        """The inverse of `to_json` and `to_tensors`. Raises ValueError if the parts do not make a head."""
        if set(values) != {"kind", "transform", "kernel", "scale"}:
            raise ValueError("a head has exactly the keys kind, transform, kernel, scale")
        if set(tensors) != {"weights", "bias", "support"}:
            raise ValueError("a head has exactly the tensors weights, bias, support")
        kind, kernel = values["kind"], values["kernel"]
        if (kind, kernel) not in (("linear", ""), ("kernel", "arc-cosine"), ("kernel", "gaussian")):
            raise ValueError(f"no such head: kind {kind!r}, kernel {kernel!r}")
        scale = values["scale"]
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < float("inf"):
            raise ValueError(f"scale must be a positive number, got {scale!r}")
        weights, bias, support = (_float32(name, tensors[name]) for name in ("weights", "bias", "support"))
        _require_shapes(kind == "kernel", weights, bias, support)
        return cls(
            kind="kernel" if kind == "kernel" else "linear",
            transform=_transform_named(values["transform"]),
            kernel=_kernel_named(kernel) if kernel else "",
            scale=float(scale),
            weights=weights,
            bias=bias,
            support=support,
        )


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def kernel_of_inner(inner: Floats, kernel: Kernel, scale: float) -> Floats:
    """Kernel values from inner products of rows of length 1, any shape.

    "gaussian" is exp(−|x − z|² / scale); "arc-cosine" is `gram.arccos_kernel`: with 1 appended, both rows are √2 long.
    """
    if kernel == "gaussian":
        return np.asarray(np.exp((np.minimum(inner, 1.0) - 1.0) * (2.0 / scale)))
    cosine = np.clip((inner + 1.0) / 2.0, -1.0, 1.0)
    return np.asarray((np.sqrt(1.0 - cosine**2) + np.arccos(-cosine) * cosine) / np.pi)


def _transform_named(value: object) -> Transform:
    for kind in TRANSFORMS:
        if value == kind:
            return kind
    raise ValueError(f"transform must be one of {', '.join(TRANSFORMS)}, got {value!r}")


def _kernel_named(value: object) -> Kernel:
    return "arc-cosine" if value == "arc-cosine" else "gaussian"


def _float32(name: str, array: NDArray[np.generic]) -> NDArray[np.float32]:
    if array.dtype != np.float32:
        raise ValueError(f"head tensor {name} must be float32, got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"head tensor {name} holds values that are not finite")
    return array.astype(np.float32)


def _require_shapes(kernel: bool, weights: Reals, bias: Reals, support: Reals) -> None:
    if weights.ndim != 2 or bias.ndim != 1 or support.ndim != 2 or len(weights) != len(bias):
        raise ValueError(f"head tensors disagree: weights {weights.shape}, bias {bias.shape}, support {support.shape}")
    if weights.shape[1] != (support.shape[0] if kernel else support.shape[1]) or (not kernel and len(support)):
        raise ValueError(f"head tensors disagree: weights {weights.shape}, support {support.shape}")
