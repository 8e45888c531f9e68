from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_info, threadpool_limits

from graftage.learn import chunking
from graftage.learn.gram import arccos_kernel
from graftage.learn.head import TRANSFORMS, Head, blend, kernel_of_inner, transform

KERNELS = ("arc-cosine", "gaussian")


def features(n, width=17, *, seed=0):
    """Like those of a pooled network: many near 0, some large, a few negative."""
    return (np.random.default_rng(seed).standard_normal((n, width)) ** 3).astype(np.float32)


def head(kernel="gaussian", *, kind="root", classes=4, width=17, kept=9, scale=0.8, seed=5):
    rng = np.random.default_rng(seed)
    m = kept if kernel else 0
    weights, coefficients, bias = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((classes, width), (classes, m), (classes,))
    )
    support = transform(features(m, width, seed=seed + 1), kind)
    return Head(kind, kernel, scale if kernel == "gaussian" else 1.0, weights, coefficients, bias, support)


HEADS = [head(kernel, kind=kind) for kernel in ("", *KERNELS) for kind in TRANSFORMS]


# ---------------------------------------------------------------- transform


def by_definition(X, kind):
    """float64."""
    x = X.astype(np.float64)
    x = np.sign(x) * np.sqrt(np.abs(x)) if kind == "root" else x
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_transform_is_its_definition(kind):
    X = features(20)
    rows = transform(X, kind)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, by_definition(X, kind), rtol=1e-5, atol=1e-7)


def test_the_root_keeps_the_sign_and_unit_keeps_the_direction():
    assert transform(np.float32([[9, -16, 0]]), "root")[0] == pytest.approx(np.array([3, -4, 0]) / 5)
    assert transform(np.float32([[3, -4, 0]]), "unit")[0] == pytest.approx(np.array([3, -4, 0]) / 5)


@given(
    hnp.arrays(np.float32, (3, 5), elements=st.floats(-1e6, 1e6, width=32).filter(lambda v: v == 0 or abs(v) > 1e-6)),
    st.sampled_from(TRANSFORMS),
)
@settings(max_examples=50, deadline=None)
def test_every_row_gets_length_one_unless_it_is_zero(X, kind):
    lengths = np.linalg.norm(transform(X, kind).astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, X.any(axis=1), atol=1e-6)


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_rows_without_features_stay_zero(kind):
    assert np.array_equal(transform(np.zeros((2, 5), np.float32), kind), np.zeros((2, 5)))
    assert transform(np.zeros((0, 5), np.float32), kind).shape == (0, 5)


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("width", [1, 2, 17, 1280])
def test_no_row_depends_on_another_nor_on_the_order_of_memory(kind, width, monkeypatch):
    X = features(60, width)
    together = transform(X, kind)
    alone = np.concatenate([transform(X[i : i + 1], kind) for i in range(60)])
    assert np.array_equal(together, alone)
    assert np.array_equal(transform(np.asfortranarray(X), kind), together)
    assert np.array_equal(transform(np.repeat(X, 2, axis=0)[::2], kind), together)
    monkeypatch.setattr(chunking, "_BYTES", 8 * width * 7)
    assert np.array_equal(transform(X, kind), together)


def test_transform_leaves_its_argument_alone():
    X = features(4)
    before = X.copy()
    transform(X, "root")
    assert np.array_equal(X, before)


# ---------------------------------------------------------------- kernels


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_the_arc_cosine_kernel_is_gramss_on_rows_of_length_one(kind):
    A, B = by_definition(features(12), kind), by_definition(features(8, seed=1), kind)
    np.testing.assert_allclose(kernel_of_inner(A @ B.T, "arc-cosine", 1.0), arccos_kernel(A, B), rtol=1e-12)


@pytest.mark.parametrize("scale", [0.03, 1.0, 7.0])
def test_the_gaussian_kernel_is_exp_of_minus_the_squared_distance_over_the_scale(scale):
    A, B = by_definition(features(12), "unit"), by_definition(features(8, seed=1), "unit")
    expected = np.exp(-cdist(A, B, "sqeuclidean") / scale)
    np.testing.assert_allclose(kernel_of_inner(A @ B.T, "gaussian", scale), expected, rtol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_picture_is_like_itself_by_one_and_rounding_takes_no_kernel_beyond(kernel):
    inner = np.array([1.0, np.nextafter(1.0, 2.0), 1.0 + 1e-6, -1.0, -1.0 - 1e-6])
    values = kernel_of_inner(inner, kernel, 0.5)
    np.testing.assert_allclose(values[:3], 1.0, rtol=1e-12)
    assert values[3] == pytest.approx(np.exp(-8) if kernel == "gaussian" else 1 / np.pi, rel=1e-12)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_positive_even_with_rows_of_zeros(kernel):
    rows = np.vstack([transform(features(20), "unit"), np.zeros((2, 17))]).astype(np.float64)
    assert np.linalg.eigvalsh(kernel_of_inner(rows @ rows.T, kernel, 1.0))[0] > -1e-9


# ---------------------------------------------------------------- logits


def logits_by_definition(h, X):
    """W t(x) + A k(support, t(x)) + b in float64, with kernels from elsewhere."""
    rows, support = by_definition(X, h.transform), h.support.astype(np.float64)
    z = rows @ h.weights.T.astype(np.float64) + h.bias
    if h.kernel == "gaussian":
        z += np.exp(-cdist(rows, support, "sqeuclidean") / h.scale) @ h.coefficients.T
    if h.kernel == "arc-cosine":
        z += arccos_kernel(rows, support) @ h.coefficients.T
    return z


@pytest.mark.parametrize("h", HEADS)
def test_logits_are_their_definition(h):
    found = h.logits(features(30, seed=3))
    assert (found.dtype, found.shape) == (np.float64, (30, 4))
    np.testing.assert_allclose(found, logits_by_definition(h, features(30, seed=3)), atol=2e-5)


def test_a_linear_head_has_no_kernel_part():
    weights, bias = np.arange(6.0).reshape(2, 3), np.array([1.0, -1.0])
    h = Head.linear("unit", weights, bias)
    assert (h.kernel, h.support.shape, h.coefficients.shape, h.features, h.n_classes) == ("", (0, 3), (2, 0), 3, 2)
    np.testing.assert_allclose(h.logits(np.float32([[0, 0, 5]])), [[2 + 1, 5 - 1]], rtol=1e-6)


@pytest.mark.parametrize("kernel", ["", *KERNELS])
def test_no_pictures_give_no_logits(kernel):
    assert head(kernel).logits(np.zeros((0, 17), np.float32)).shape == (0, 4)


# So large that BLAS would split its sums by the number of threads.
WIDE = {kernel: head(kernel, classes=1001, width=1281, kept=1001) for kernel in ("", *KERNELS)}


@pytest.mark.parametrize("kernel", WIDE)
def test_a_picture_gets_the_same_bits_alone_and_in_company(kernel):
    X = features(100, 1281, seed=3)
    together = WIDE[kernel].logits(X)
    for i in (0, 1, 50, 99):
        assert np.array_equal(WIDE[kernel].logits(X[i : i + 1])[0], together[i])
    assert np.array_equal(WIDE[kernel].logits(np.asfortranarray(X[::-1])), together[::-1])


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("kernel", WIDE)
def test_a_picture_gets_the_same_bits_however_many_threads_there_are(kernel, threads):
    X = features(4, 1281, seed=3)
    with threadpool_limits(1):
        single = WIDE[kernel].logits(X)
    with threadpool_limits(threads):
        assert np.array_equal(WIDE[kernel].logits(X), single)


def test_callers_at_the_same_time_get_the_same_bits_and_leave_the_threads_as_they_were():
    X = features(4, 1281, seed=3)
    with threadpool_limits(1):
        alone = WIDE[""].logits(X)
    with threadpool_limits(3, user_api="blas"), ThreadPoolExecutor(6) as pool:
        before = threadpool_info()
        answers = list(pool.map(WIDE[""].logits, [X] * 24))
        assert threadpool_info() == before
    assert all(np.array_equal(answer, alone) for answer in answers)


# ---------------------------------------------------------------- kept in a file


@pytest.mark.parametrize("h", HEADS)
def test_parts_make_the_same_head_again(h):
    again = Head.from_parts(h.to_json(), h.to_tensors())
    assert again.to_json() == h.to_json()
    assert all(np.array_equal(again.to_tensors()[name], tensor) for name, tensor in h.to_tensors().items())
    assert np.array_equal(again.logits(features(5)), h.logits(features(5)))


def test_tensors_of_another_memory_order_give_the_same_bits():
    h = head(width=1281)
    again = Head.from_parts(h.to_json(), {name: np.asfortranarray(t) for name, t in h.to_tensors().items()})
    assert np.array_equal(again.logits(features(5, 1281)), h.logits(features(5, 1281)))


def test_the_parts_are_plain_values_and_float32_tensors():
    h = head()
    assert h.to_json() == {"transform": "root", "kernel": "gaussian", "scale": 0.8}
    assert {name: (t.dtype, t.shape) for name, t in h.to_tensors().items()} == {
        "weights": (np.float32, (4, 17)),
        "coefficients": (np.float32, (4, 9)),
        "bias": (np.float32, (4,)),
        "support": (np.float32, (9, 17)),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "linear"}, "exactly the keys transform, kernel, scale"),
        ({"transform": "square"}, "transform must be one of root, unit, plain, got 'square'"),
        ({"transform": None}, "transform must be one of root, unit, plain, got None"),
        ({"transform": ["root"]}, "transform must be one of"),
        ({"kernel": "linear"}, "kernel must be arc-cosine, gaussian or empty, got 'linear'"),
        ({"kernel": None}, "kernel must be"),
        ({"kernel": ""}, "a kernel if, and only if, it keeps pictures"),
        ({"scale": 0.0}, r"scale must be a positive number, got 0\.0"),
        ({"scale": -1.0}, "scale must be"),
        ({"scale": float("nan")}, "scale must be"),
        ({"scale": float("inf")}, "scale must be"),
        ({"scale": 10**400}, "scale must be"),
        ({"scale": True}, "scale must be"),
        ({"scale": "1"}, "scale must be"),
    ],
)
def test_values_that_make_no_head_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Head.from_parts(head().to_json() | changes, head().to_tensors())


@pytest.mark.parametrize("name", ["transform", "kernel", "scale"])
def test_a_missing_value_is_refused(name):
    values = {key: value for key, value in head().to_json().items() if key != name}
    with pytest.raises(ValueError, match="exactly the keys"):
        Head.from_parts(values, head().to_tensors())


F32 = np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more": np.zeros(1, F32)}, "exactly the tensors weights, coefficients, bias, support"),
        ({"weights": np.zeros((4, 17))}, "weights must be float32, got float64"),
        ({"support": np.zeros((9, 17), np.int32)}, "support must be float32, got int32"),
        ({"bias": np.array([0, 0, np.nan, 0], F32)}, "bias holds values that are not finite"),
        ({"coefficients": np.full((4, 9), np.inf, F32)}, "coefficients holds values that are not finite"),
        ({"weights": np.zeros((4, 17, 1), F32)}, "wrong number of dimensions"),
        ({"coefficients": np.zeros(36, F32)}, "wrong number of dimensions"),
        ({"bias": np.zeros((4, 1), F32)}, "wrong number of dimensions"),
        ({"support": np.zeros(17, F32)}, "wrong number of dimensions"),
        ({"weights": np.zeros((3, 17), F32)}, "disagree"),
        ({"weights": np.zeros((4, 16), F32)}, "disagree"),
        ({"coefficients": np.zeros((3, 9), F32)}, "disagree"),
        ({"coefficients": np.zeros((4, 8), F32)}, "disagree"),
        ({"bias": np.zeros(5, F32)}, "disagree"),
        ({"support": np.zeros((8, 17), F32)}, "disagree"),
        ({"support": np.zeros((9, 18), F32)}, "disagree"),
        ({"support": np.zeros((0, 17), F32), "coefficients": np.zeros((4, 0), F32)}, "if, and only if"),
    ],
)
def test_tensors_that_make_no_head_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Head.from_parts(head().to_json(), head().to_tensors() | changes)


@pytest.mark.parametrize("name", ["weights", "coefficients", "bias", "support"])
def test_a_missing_tensor_is_refused(name):
    tensors = {key: tensor for key, tensor in head().to_tensors().items() if key != name}
    with pytest.raises(ValueError, match="exactly the tensors"):
        Head.from_parts(head().to_json(), tensors)


# ---------------------------------------------------------------- blend


@pytest.mark.parametrize("kernel", ["", *KERNELS])
@pytest.mark.parametrize("linear_first", [True, False])
def test_a_blend_is_the_mean_of_the_logits_over_their_temperatures(kernel, linear_first):
    heads, temperatures = [head("", seed=1), head(kernel, seed=2), head("", seed=3)], [0.2, 1.7, 3.0]
    if not linear_first:
        heads, temperatures = heads[1:], temperatures[1:]
    X = features(30, seed=3)
    expected = np.mean([h.logits(X) / t for h, t in zip(heads, temperatures, strict=True)], axis=0)
    mixed = blend(heads, temperatures)
    np.testing.assert_allclose(mixed.logits(X), expected, atol=1e-5)
    assert Head.from_parts(mixed.to_json(), mixed.to_tensors()).kernel == kernel


def test_a_blend_of_one_is_itself_over_its_temperature():
    X = features(5)
    np.testing.assert_allclose(blend([head()], [4.0]).logits(X), head().logits(X) / 4, atol=1e-5)


def test_heads_that_cannot_be_one_are_not_blended():
    with pytest.raises(AssertionError, match="one head holds one set of pictures"):
        blend([head("gaussian"), head("arc-cosine")], [1.0, 1.0])
    with pytest.raises(AssertionError, match="one transform"):
        blend([head(""), replace(head(), transform="unit")], [1.0, 1.0])
