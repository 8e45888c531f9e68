"""The classifier on frozen features: a linear layer, or a kernel expansion that carries the pictures it needs."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from graftage.learn.chunking import chunks

Floats = NDArray[np.float64]
Reals = NDArray[np.floating[Any]]

Transform = Literal["unit", "root", "plain"]
Kernel = Literal["arc-cosine", "gaussian"]

TRANSFORMS: tuple[Transform, ...] = ("root", "unit")  # those that the search tries
_KNOWN: tuple[Transform, ...] = (*TRANSFORMS, "plain")
_TENSORS = ("weights", "coefficients", "bias", "support")
_HIDDEN = ("hidden_weights", "hidden_bias")  # only where there is a hidden layer
_TOGETHER = 32  # rows that the support is read for at a time; the results do not depend on it
_SHORT = 8192  # numbers whose inner product no BLAS splits between threads
_PIECE = 1 << 16  # numbers of the support that a core's cache holds beside the rest: 256 KiB


def transform(X: Reals, kind: Transform) -> NDArray[np.float32]:
    """Features (n, D) → float32 (n, D), each row of length 1 but for "plain"; row by row: nothing leaks between folds.

    "plain" leaves the features as they are. "root" first takes the signed square root, which tempers the few large
    activations of a pooled network (the power transform of Perronnin et al. 2010); "unit" leaves them.
    """
    out = np.array(X, dtype=np.float32, order="C")  # in another order the sums over a row would round otherwise
    if kind == "plain":
        return out
    for rows in chunks(len(out), out.shape[1]):
        part = out[rows]
        if kind == "root":
            part[:] = np.sign(part) * np.sqrt(np.abs(part))
        part /= np.maximum(np.sqrt(np.einsum("nd,nd->n", part, part))[:, None], np.float32(1e-12))
    return out


@dataclass(frozen=True, eq=False)
class Head:
    """A classifier on features: z = W t(x) + A k(support, t(x)) + b, where either part may be empty.

    With a hidden layer it is z = W max(0, V t(x) + c) + b, without a kernel part.

    Attributes:
        transform: t.
        kernel: which k, or "" where there is no kernel part.
        scale: mean squared distance that the gaussian kernel is measured in; 1 otherwise.
        weights: W, float32 (K, D), or (K, H) after a hidden layer; all 0 where there is no linear part.
        coefficients: A, float32 (K, m).
        bias: b, float32 (K,).
        support: float32 (m, D), transformed features of kept pictures; m = 0 where there is no kernel part.
        hidden: V, float32 (H, D), and c, float32 (H,); None where there is no hidden layer.
    """

    transform: Transform
    kernel: Kernel | Literal[""]
    scale: float
    weights: NDArray[np.float32]
    coefficients: NDArray[np.float32]
    bias: NDArray[np.float32]
    support: NDArray[np.float32]
    hidden: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    @classmethod
    def linear(cls, kind: Transform, weights: Reals, bias: Reals, *, hidden: tuple[Reals, Reals] | None = None) -> Self:
        """A head without kernel part from W (K, D) and b (K,); with `hidden` V (H, D) and c (H,), from W (K, H)."""
        n_classes, features = len(weights), (weights if hidden is None else hidden[0]).shape[1]
        no_pictures, none_used = np.zeros((0, features), np.float32), np.zeros((n_classes, 0), np.float32)
        layer = None if hidden is None else (_kept(hidden[0]), _kept(hidden[1]))
        return cls(kind, "", 1.0, _kept(weights), none_used, _kept(bias), no_pictures, layer)

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

        Row by row and without BLAS: the same picture gets the same bits whatever company or machine load it has.
        """
        rows = transform(X, self.transform)
        out = np.array([self._plain(row) for row in rows], dtype=np.float64).reshape(len(rows), self.n_classes)
        if self.kernel:
            for start in range(0, len(rows), _TOGETHER):
                part = slice(start, start + _TOGETHER)
                for z, inner in zip(out[part], inner_products(rows[part], self.support), strict=True):
                    values = kernel_of_inner(inner.astype(np.float64), self.kernel, self.scale)
                    z += np.einsum("km,m->k", self.coefficients, values)
        return out

    def _plain(self, row: NDArray[np.float32]) -> Floats:
        if self.hidden is not None:
            row = np.maximum(inner_products(row[None], self.hidden[0])[0] + self.hidden[1], np.float32(0))
        return np.asarray(inner_products(row[None], self.weights)[0] + self.bias, dtype=np.float64)

    def to_json(self) -> dict[str, object]:
        """Everything that is not a tensor."""
        return {"transform": self.transform, "kernel": self.kernel, "scale": self.scale}

    def to_tensors(self) -> dict[str, NDArray[np.generic]]:
        """The tensors, by name."""
        hidden = {} if self.hidden is None else dict(zip(_HIDDEN, self.hidden, strict=True))
        return {**{name: getattr(self, name) for name in _TENSORS}, **hidden}

    @classmethod
    def from_parts(cls, values: Mapping[str, object], tensors: Mapping[str, NDArray[np.generic]]) -> Self:
        """The inverse of `to_json` and `to_tensors`. Raises ValueError if the parts do not make a head."""
        if set(values) != {"transform", "kernel", "scale"}:
            raise ValueError("a head has exactly the keys transform, kernel, scale")
        names = (*_TENSORS, *_HIDDEN) if set(_HIDDEN) & set(tensors) else _TENSORS
        if set(tensors) != set(names):
            raise ValueError(f"a head has exactly the tensors {', '.join(names)}")
        scale = values["scale"]
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale <= sys.float_info.max:
            raise ValueError(f"scale must be a positive number, got {scale!r}")
        kernel = _kernel_named(values["kernel"])
        arrays = {name: _float32(name, tensors[name]) for name in names}
        hidden = (arrays.pop(_HIDDEN[0]), arrays.pop(_HIDDEN[1])) if len(names) > len(_TENSORS) else None
        _require_shapes(arrays, hidden, kernel=bool(kernel))
        return cls(_transform_named(values["transform"]), kernel, float(scale), **arrays, hidden=hidden)


def blend(heads: Sequence[Head], temperatures: Sequence[float]) -> Head:
    """The mean of the heads' logits, each divided by its temperature, as one head.

    All must share the transform, and at most one may have a kernel part.
    """
    kernels = [head for head in heads if head.kernel]
    assert len(kernels) <= 1, "one head holds one set of pictures"
    assert len({head.transform for head in heads}) == 1, "one head has one transform"
    shares = [1.0 / (t * len(heads)) for t in temperatures]
    base = kernels[0] if kernels else heads[0]
    own = shares[[head is base for head in heads].index(True)]
    return replace(
        base,
        weights=_kept(sum(share * head.weights.astype(np.float64) for share, head in zip(shares, heads, strict=True))),
        bias=_kept(sum(share * head.bias.astype(np.float64) for share, head in zip(shares, heads, strict=True))),
        coefficients=_kept(own * base.coefficients.astype(np.float64)),
    )


def inner_products(rows: NDArray[np.float32], kept: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products of rows (n, D) with `kept` (m, D): float32 (n, m), each the same bits whatever its company.

    A BLAS splits matrices by the number of threads, which belongs to the whole process, and so does OpenBLAS its inner
    products of more than 10,000 numbers; those of fewer are summed in one order always, as by einsum, but faster. What
    is kept is read from memory once for all rows, a piece at a time.
    """
    D = rows.shape[1]
    out = np.empty((len(rows), len(kept)), np.float32)
    piece = max(8, _PIECE // max(D, 1))
    for start in range(0, len(kept), piece):
        some = slice(start, start + piece)
        if D > _SHORT:
            out[:, some] = [np.einsum("nd,d->n", kept[some], row) for row in rows]
        else:
            np.vecdot(kept[None, some], rows[:, None], out=out[:, some])
    return out


def _kept(values: Any) -> NDArray[np.float32]:  # an array, or the sum of arrays that mypy takes for a number
    return np.ascontiguousarray(values, dtype=np.float32)


def kernel_of_inner(inner: Floats, kernel: Kernel, scale: float) -> Floats:
    """Kernel values from inner products of rows of length 1, any shape.

    "gaussian" is exp(−|x − z|² / scale); "arc-cosine" is `gram.arccos_kernel`: with 1 appended, both rows are √2 long.
    """
    if kernel == "gaussian":
        return np.asarray(np.exp((np.minimum(inner, 1.0) - 1.0) * (2.0 / scale)))
    cosine = np.clip((inner + 1.0) / 2.0, -1.0, 1.0)
    return np.asarray((np.sqrt(1.0 - cosine**2) + np.arccos(-cosine) * cosine) / np.pi)


def _transform_named(value: object) -> Transform:
    for kind in _KNOWN:
        if value == kind:
            return kind
    raise ValueError(f"transform must be one of {', '.join(_KNOWN)}, got {value!r}")


def _kernel_named(value: object) -> Kernel | Literal[""]:
    if value == "":
        return ""
    if value == "arc-cosine":
        return "arc-cosine"
    if value == "gaussian":
        return "gaussian"
    raise ValueError(f"kernel must be arc-cosine, gaussian or empty, got {value!r}")


def _float32(name: str, array: NDArray[np.generic]) -> NDArray[np.float32]:
    if array.dtype != np.float32:
        raise ValueError(f"head tensor {name} must be float32, got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"head tensor {name} holds values that are not finite")
    return np.ascontiguousarray(array, dtype=np.float32)


def _require_shapes(arrays: Mapping[str, Reals], hidden: tuple[Reals, Reals] | None, *, kernel: bool) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    dimensions = {"weights": 2, "coefficients": 2, "bias": 1, "support": 2}
    if any(arrays[name].ndim != wanted for name, wanted in dimensions.items()):
        raise ValueError(f"head tensors have the wrong number of dimensions: {shapes}")
    (classes, features), (m, width) = shapes["weights"], shapes["support"]
    if hidden is not None:
        features = _through_hidden(hidden, features)
    if shapes["coefficients"] != (classes, m) or shapes["bias"] != (classes,) or width != features:
        raise ValueError(f"head tensors disagree: {shapes}")
    if kernel != (m > 0):
        raise ValueError(f"a head has a kernel if, and only if, it keeps pictures: {shapes}")
    if kernel and hidden is not None:
        raise ValueError("a head has a hidden layer or a kernel, not both")


def _through_hidden(hidden: tuple[Reals, Reals], width: int) -> int:
    """D, where the hidden layer (H, D), (H,) feeds weights of this width H."""
    layer, bias = hidden
    if layer.ndim != 2 or bias.shape != (width,) or len(layer) != width:
        raise ValueError(f"hidden layer {layer.shape} and {bias.shape} do not feed weights of width {width}")
    return int(layer.shape[1])
