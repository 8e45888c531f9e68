from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from graftage.learn import chunking, defaults
from graftage.learn.gram import arccos_kernel
from graftage.learn.head import TRANSFORMS, transform
from graftage.learn.search import (
    FAMILIES,
    Candidate,
    Expansion,
    Searched,
    Trial,
    fit_head,
    judge,
    logistic_pays,
    search,
    simplest_within_one_error,
    targets,
)

SINGLE = tuple(family for family in FAMILIES if family != "blend")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    with threadpool_limits(1):
        yield


def toy(n=90, *, classes=3, width=24, signal=0.7, power=1, seed=0):
    """Features that tell the class, labels with every class, two draws of five folds.

    Raised to a power, few large features hide the many small ones: then the root is the better transform.
    """
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    X = np.abs(rng.standard_normal((n, width)) + signal * rng.standard_normal((classes, width))[y])
    folds = np.stack([rng.permutation(np.arange(n) % 5) for _ in range(2)])
    return SimpleNamespace(X=(X**power).astype(np.float32), y=y, folds=folds)


def xor(n=240):
    """Two classes that no line parts: the sign of a product."""
    rng = np.random.default_rng(4)
    X = rng.standard_normal((n, 4)).astype(np.float32)
    return SimpleNamespace(X=X, y=(X[:, 0] * X[:, 1] > 0).astype(np.int64), folds=rng.integers(0, 5, (1, n)))


def searched(data, *families, seed=0):
    return search(data.X, data.y, data.folds, fit="squash", families=families or FAMILIES, seed=seed)


def best(found, family):
    return found.trials[found.best[family]]


@pytest.fixture(scope="module")
def data():
    return toy()


@pytest.fixture(scope="module")
def found(data):
    return searched(data)


# ---------------------------------------------------------------- judging


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.01, 100))
def test_a_trial_is_judged_as_scikit_learn_judges(seed, classes, scale):
    rng = np.random.default_rng(seed)
    y = np.arange(40) % classes
    logits = (scale * (rng.standard_normal((40, classes)) + np.eye(classes)[y])).astype(np.float32)
    trial = judge(logits, y, Candidate("ridge", "crop", "unit", 1.0))
    p = softmax(logits.astype(float) / trial.temperature, axis=1)
    assert trial.log_loss == pytest.approx(sklearn.metrics.log_loss(y, p), rel=1e-5)
    assert trial.accuracy(y) == sklearn.metrics.accuracy_score(y, logits.argmax(axis=1))
    each = np.square(p - np.eye(classes)[y]).sum(axis=1)
    np.testing.assert_allclose(trial.briers, each, atol=1e-6)
    if classes == 2:  # scikit-learn counts one of the two classes
        assert trial.briers.mean() == pytest.approx(2 * sklearn.metrics.brier_score_loss(y, p[:, 1]), rel=1e-4)


def test_the_temperature_of_a_trial_is_the_one_of_least_loss():
    data = toy(200)
    logits = 30 * np.random.default_rng(1).standard_normal((200, 3)) + 20 * np.eye(3)[data.y]
    trial = judge(logits, data.y, Candidate("ridge", "crop", "unit", 1.0))
    at = [sklearn.metrics.log_loss(data.y, softmax(logits / (f * trial.temperature), axis=1)) for f in (0.9, 1, 1.1)]
    assert at[1] < min(at[0], at[2])


def test_judging_in_pieces_changes_nothing(monkeypatch):
    data = toy(50)
    logits = np.random.default_rng(1).standard_normal((50, 3))
    whole = judge(logits, data.y, Candidate("ridge", "crop", "unit", 1.0))
    monkeypatch.setattr(chunking, "_BYTES", 8 * 3 * 7)
    parts = judge(logits, data.y, Candidate("ridge", "crop", "unit", 1.0))
    for name in ("losses", "predicted", "briers"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))


# ---------------------------------------------------------------- choosing


def made(**losses):
    """A search whose families had these losses."""
    names = [name.replace("_", "-") for name in losses]
    trials = tuple(
        Trial(Candidate(name, "crop", "unit", 1.0), 1.0, np.float32(v), np.zeros(len(v), np.int32), np.float32(v))
        for name, v in zip(names, losses.values(), strict=True)
    )
    return Searched(trials, {}, {name: i for i, name in enumerate(names)})


def chosen(**losses):
    return made(**losses).chosen().candidate.family


# Gap of mean 0.1 and standard error 0.1 · s: 0.1 + s · noise, noise of standard error 0.1.
NOISE = np.tile([1.0, -1.0], 50) * np.sqrt(99 / 100)


@pytest.mark.parametrize(("s", "wanted"), [(0.9, "gaussian"), (1.1, "ridge")])
def test_the_simpler_family_is_taken_within_one_standard_error_of_the_difference(s, wanted):
    leader = np.full(100, 0.5)
    assert chosen(ridge=leader + 0.1 + s * NOISE, gaussian=leader) == wanted


def test_the_error_is_that_of_the_paired_difference():
    hard = np.random.default_rng(0).exponential(5.0, 100)  # pictures differ far more than classifiers
    assert chosen(ridge=hard + 0.01, gaussian=hard) == "gaussian"


def test_a_tie_goes_to_the_simpler_family():
    assert chosen(gaussian=np.ones(5), logistic=np.ones(5)) == "logistic"


def test_the_leader_is_taken_where_it_is_the_simplest_itself():
    assert chosen(ridge=np.ones(5), gaussian=np.full(5, 1.1)) == "ridge"


def test_the_simplest_of_all_that_are_near_is_taken_not_the_nearest():
    leader = np.full(100, 0.5)
    losses = {"ridge": leader + 1 + NOISE, "logistic": leader + 0.1 + 1.5 * NOISE}
    assert chosen(**losses, arc_cosine=leader + 0.01 + NOISE, blend=leader) == "logistic"


def test_trials_of_any_kind_are_weighed_in_the_order_given():
    squash, crop = made(ridge=np.full(9, 0.5)).trials[0], made(ridge=0.5 + 0.1 * np.eye(9)[0]).trials[0]
    assert simplest_within_one_error([crop, squash]) is crop
    assert simplest_within_one_error([squash, crop]) is squash


def test_the_leader_has_the_least_loss_whatever_its_family():
    found = made(ridge=[0.3, 0.3], logistic=[0.1, 0.2], gaussian=[0.2, 0.2])
    assert found.leader().candidate.family == "logistic"


# ---------------------------------------------------------------- what is tried


def test_every_family_is_tried_with_every_penalty_on_the_same_pictures(data, found):
    counts = {family: sum(t.candidate.family == family for t in found.trials) for family in FAMILIES}
    assert counts == {"ridge": 16, "logistic": 8, "arc-cosine": 8, "gaussian": 8, "blend": 1}
    assert {trial.candidate.fit for trial in found.trials} == {"squash"}
    assert all(trial.losses.shape == trial.predicted.shape == trial.briers.shape == (90,) for trial in found.trials)


@pytest.mark.parametrize(("power", "better"), [(1, "unit"), (3, "root")])
def test_ridge_tries_both_transforms_and_the_others_take_the_better_one(power, better):
    found = searched(toy(power=power))
    kinds = [[t.candidate.transform for t in found.trials if t.candidate.family == f] for f in FAMILIES]
    assert set(kinds[0]) == set(TRANSFORMS)
    assert {kind for others in kinds[1:] for kind in others} == {better}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_of_a_family_has_the_least_loss_and_its_logits_are_kept(data, found, family):
    trial = best(found, family)
    assert trial.log_loss == min(t.log_loss for t in found.trials if t.candidate.family == family)
    again = judge(found.logits[family], data.y, trial.candidate)
    assert again.log_loss == pytest.approx(trial.log_loss, rel=1e-6)
    assert np.array_equal(again.predicted, trial.predicted)


def test_ridge_penalties_are_in_units_of_the_features_spread(data, found):
    for kind in TRANSFORMS:
        rows = transform(data.X, kind).astype(float)
        wanted = defaults.ridge_path(np.square(rows - rows.mean(axis=0)).sum() / len(rows))
        of_kind = [t.candidate for t in found.trials if t.candidate.transform == kind]
        np.testing.assert_allclose([c.penalty for c in of_kind if c.family == "ridge"], wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("signal", "linear", "kernel"),
    [(0.7, "ridge", "arc-cosine"), (1.5, "logistic", "gaussian")],
    ids=["weak", "strong"],
)
def test_a_blend_is_the_mean_of_the_best_linear_and_the_best_kernel_over_their_temperatures(signal, linear, kernel):
    found = searched(toy(signal=signal))
    parts = best(found, "blend").candidate.parts
    assert [part.family for part, _ in parts] == [linear, kernel]
    wanted = [min((best(found, f) for f in pair), key=lambda t: t.log_loss) for pair in (SINGLE[:2], SINGLE[2:])]
    assert parts == tuple((trial.candidate, trial.temperature) for trial in wanted)
    mean = np.mean([found.logits[part.family] / temperature for part, temperature in parts], axis=0)
    np.testing.assert_allclose(found.logits["blend"], mean, atol=1e-5)


def test_only_the_families_asked_for_are_tried(data):
    assert set(searched(data, "gaussian").best) == {"ridge", "gaussian"}
    assert set(searched(data, "ridge", "blend").best) == {"ridge"}  # nothing to blend with


def test_every_family_is_told_when_it_is_tried(data):
    told = []
    found = search(data.X, data.y, data.folds, fit="crop", families=FAMILIES, seed=0, step=told.append)
    assert all(any(family in line for line in told) for family in found.best)


def test_logistic_regression_is_left_out_where_it_would_take_too_long(data, monkeypatch):
    work = 90 * 24 * 3 * 10  # pictures · features · classes · models
    monkeypatch.setattr(defaults, "LOGISTIC_BUDGET", work)
    assert logistic_pays(90, 24, 3, data.folds)
    monkeypatch.setattr(defaults, "LOGISTIC_BUDGET", work - 1)
    assert not logistic_pays(90, 24, 3, data.folds)
    assert set(searched(data, "logistic").best) == {"ridge"}


def test_targets_are_one_for_the_class_and_minus_one_elsewhere():
    assert targets(np.array([2, 0])).tolist() == [[-1, -1, 1], [1, -1, -1]]


# ---------------------------------------------------------------- what is tried is what is fitted

# Logistic regression stops where the loss is right, with logits that are a little off.
ATOL = {"ridge": 1e-5, "logistic": 5e-2, "arc-cosine": 1e-4, "gaussian": 1e-4}


def fitted_without(data, fold, candidate, scale):
    """The head trained on all rows outside the fold, with the gaussian's scale as measured on all rows."""
    train = data.folds[0] != fold
    if candidate.family != "gaussian":
        return fit_head(data.X[train], data.y[train], candidate, seed=0)
    rows = transform(data.X[train], candidate.transform)
    return replace(Expansion.of(rows, "gaussian", seed=0), scale=scale).fitted(rows, data.y[train], candidate)


@pytest.mark.parametrize("family", SINGLE)
@pytest.mark.parametrize(("width", "power", "kind"), [(12, 1, "unit"), (200, 3, "root")], ids=["tall", "wide"])
def test_held_out_logits_are_those_of_the_head_fitted_without_the_fold(family, width, power, kind):
    data = toy(width=width, power=power)
    data.folds = data.folds[:1]
    found = searched(data, family)
    candidate = best(found, family).candidate
    assert candidate.transform == kind
    scale = Expansion.of(transform(data.X, candidate.transform), "gaussian", seed=0).scale
    for fold in (0, 3):
        held = data.folds[0] == fold
        logits = fitted_without(data, fold, candidate, scale).logits(data.X[held])
        np.testing.assert_allclose(logits, found.logits[family][held], atol=ATOL[family])


def test_held_out_logits_are_averaged_over_the_draws_of_folds(data):
    whole = searched(data, "ridge")
    candidate = best(whole, "ridge").candidate
    mean = np.zeros((90, 3))
    for fold in data.folds:
        for number in range(5):
            held = fold == number
            mean[held] += fit_head(data.X[~held], data.y[~held], candidate, seed=0).logits(data.X[held]) / 2
    np.testing.assert_allclose(whole.logits["ridge"], mean, atol=1e-5)


def test_a_blend_is_fitted_as_the_mean_of_its_parts(data, found):
    candidate = best(found, "blend").candidate
    X = toy(20, seed=1).X
    parts = [fit_head(data.X, data.y, part, seed=0).logits(X) / t for part, t in candidate.parts]
    np.testing.assert_allclose(fit_head(data.X, data.y, candidate, seed=0).logits(X), np.mean(parts, axis=0), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fitted_head_takes_the_features_as_they_come(data, found, family):
    candidate = best(found, family).candidate
    head = fit_head(data.X, data.y, candidate, seed=0)
    assert (head.transform, head.features, head.n_classes) == (candidate.transform, 24, 3)
    assert (head.logits(data.X).argmax(axis=1) == data.y).mean() >= best(found, family).accuracy(data.y)


# ---------------------------------------------------------------- kernels


@pytest.mark.parametrize("kernel", ["arc-cosine", "gaussian"])
def test_an_expansion_has_the_kernels_values(data, kernel):
    rows = transform(data.X, "unit")
    expansion = Expansion.of(rows, kernel, seed=0)
    some = rows[:7].astype(float)
    squared = pdist(rows.astype(float), "sqeuclidean")
    expected = (
        arccos_kernel(some, rows)
        if kernel == "arc-cosine"
        else np.exp(-cdist(some, rows.astype(float), "sqeuclidean") / np.median(squared))
    )
    np.testing.assert_allclose(expansion.values(rows[:7]), expected, rtol=1e-6)
    assert expansion.exact


def test_pictures_that_are_all_alike_have_a_scale_all_the_same():
    assert Expansion.of(np.tile(np.float32([[0.6, 0.8]]), (10, 1)), "gaussian", seed=0).scale == 1e-3


def landmarks(monkeypatch, *, exact, kept):
    monkeypatch.setattr(defaults, "EXACT_KERNEL", exact)
    monkeypatch.setattr(defaults, "ARC_COSINE", exact)
    monkeypatch.setattr(defaults, "LANDMARKS", kept)


@pytest.mark.parametrize("kernel", ["arc-cosine", "gaussian"])
def test_landmarks_that_are_all_pictures_give_the_exact_kernel(data, monkeypatch, kernel):
    rows, candidate = transform(data.X, "unit"), Candidate(kernel, "crop", "unit", 0.1)
    exact = Expansion.of(rows, kernel, seed=0)
    head, held = exact.fitted(rows, data.y, candidate), list(exact.held_out(rows, data.y, data.folds))
    landmarks(monkeypatch, exact=89, kept=90)
    near = Expansion.of(rows, kernel, seed=0)
    assert not near.exact
    X = toy(20, seed=1).X
    np.testing.assert_allclose(near.fitted(rows, data.y, candidate).logits(X), head.logits(X), atol=2e-3)
    for (penalty, logits), (other, wanted) in zip(near.held_out(rows, data.y, data.folds), held, strict=True):
        assert penalty == pytest.approx(other, rel=1e-3)
        np.testing.assert_allclose(logits, wanted, atol=2e-2)


def test_landmarks_are_some_of_the_pictures_each_once(data, monkeypatch):
    landmarks(monkeypatch, exact=50, kept=30)
    rows = transform(data.X, "unit")
    support = Expansion.of(rows, "gaussian", seed=3).support
    kept = {row.tobytes() for row in support}
    assert len(kept) == 30
    assert kept < {row.tobytes() for row in rows}
    assert not np.array_equal(Expansion.of(rows, "gaussian", seed=4).support, support)


def test_held_out_logits_on_landmarks_are_those_of_the_head_fitted_without_the_fold(data, monkeypatch):
    landmarks(monkeypatch, exact=50, kept=30)
    rows, fold = transform(data.X, "unit"), data.folds[0]
    expansion = Expansion.of(rows, "gaussian", seed=0)
    penalty, logits = list(expansion.held_out(rows, data.y, data.folds[:1]))[3]
    train = fold != 2
    head = expansion.fitted(rows[train], data.y[train], Candidate("gaussian", "crop", "unit", penalty))
    assert np.array_equal(head.support, expansion.support)
    np.testing.assert_allclose(head.logits(data.X[~train]), logits[~train], atol=1e-3)


# ---------------------------------------------------------------- many pictures


def test_many_pictures_take_the_other_route_to_the_same_ridge(data, found, monkeypatch):
    landmarks(monkeypatch, exact=50, kept=30)
    other = searched(data, "ridge")
    np.testing.assert_allclose(other.logits["ridge"], found.logits["ridge"], atol=1e-4)
    penalties = [[t.candidate.penalty for t in s.trials if t.candidate.family == "ridge"] for s in (other, found)]
    np.testing.assert_allclose(*penalties, rtol=1e-5)


def test_many_pictures_are_classified_as_well_by_landmarks(monkeypatch):
    data = toy(300)
    exact = best(searched(data, "gaussian"), "gaussian")
    landmarks(monkeypatch, exact=200, kept=150)
    found = searched(data, "arc-cosine", "gaussian", "blend")
    assert set(found.best) == {"ridge", "gaussian", "blend"}
    assert best(found, "gaussian").accuracy(data.y) == pytest.approx(exact.accuracy(data.y), abs=0.03)
    assert best(found, "gaussian").log_loss == pytest.approx(exact.log_loss, abs=0.05)
    head = fit_head(data.X, data.y, best(found, "blend").candidate, seed=0)
    assert len(head.support) == 150


# ---------------------------------------------------------------- what it makes of data


@pytest.mark.parametrize("classes", [2, 5])
def test_labels_that_mean_nothing_are_found_to_mean_nothing(classes):
    data = toy(300, classes=classes)
    data.y = np.random.default_rng(1).permutation(data.y)
    trial = searched(data).chosen()
    assert trial.log_loss == pytest.approx(np.log(classes), abs=0.03)
    assert abs(trial.accuracy(data.y) - 1 / classes) < 3 * np.sqrt((classes - 1) / classes**2 / 300)


def test_an_easy_set_is_learnt():
    data = toy(signal=3.0)
    found = searched(data)
    for family in FAMILIES:
        assert best(found, family).accuracy(data.y) > 0.97
        assert best(found, family).log_loss < 0.1
    assert found.chosen().candidate.family == "ridge" or found.chosen().log_loss < best(found, "ridge").log_loss


def test_what_no_line_parts_is_given_to_a_kernel():
    data = xor()
    found = searched(data)
    assert best(found, "ridge").accuracy(data.y) < 0.65
    assert found.chosen().candidate.family in ("arc-cosine", "gaussian")
    assert found.chosen().accuracy(data.y) > 0.85
    X = np.float32([[1, 1, 0, 0], [-1, -1, 0, 0], [1, -1, 0, 0], [-1, 1, 0, 0]])
    head = fit_head(data.X, data.y, found.chosen().candidate, seed=0)
    assert head.logits(X).argmax(axis=1).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("exact", [1000, 9])
@pytest.mark.parametrize(("n", "classes", "width"), [(20, 2, 40), (20, 10, 40), (10, 5, 3), (24, 8, 1)])
def test_the_smallest_sets_get_a_head_of_every_family(monkeypatch, n, classes, width, exact):
    landmarks(monkeypatch, exact=exact, kept=8)
    data = toy(n, classes=classes, width=width)  # features of width 1 are all alike once their length is 1
    found = searched(data)
    assert set(FAMILIES) - set(found.best) == (set() if exact > n else {"arc-cosine"})
    assert all(np.isfinite(trial.losses).all() for trial in found.trials)
    for family in found.best:
        logits = fit_head(data.X, data.y, best(found, family).candidate, seed=0).logits(data.X)
        assert logits.shape == (n, classes)
        assert np.isfinite(logits).all()


def test_a_class_that_a_fold_holds_whole_is_survived():
    data = toy(40, classes=4)
    data.folds = np.stack([np.where(data.y == 3, 0, 1 + np.arange(40) % 3)])
    found = searched(data)
    assert all(np.isfinite(logits).all() for logits in found.logits.values())
    assert not (best(found, "ridge").predicted[data.y == 3] == 3).any()


# ---------------------------------------------------------------- what it does not depend on


@pytest.mark.parametrize("exact", [1000, 50])
def test_the_same_seed_gives_the_same_bytes(data, monkeypatch, exact):
    landmarks(monkeypatch, exact=exact, kept=40)
    runs = [searched(data, seed=5) for _ in range(2)]
    assert runs[0].logits.keys() == runs[1].logits.keys()
    assert all(np.array_equal(runs[0].logits[f], runs[1].logits[f]) for f in runs[0].logits)
    candidate = best(runs[0], "blend").candidate
    assert candidate == best(runs[1], "blend").candidate
    heads = [fit_head(data.X, data.y, candidate, seed=5).to_tensors() for _ in range(2)]
    assert all(np.array_equal(heads[0][name], heads[1][name]) for name in heads[0])


def close(found, family, wanted):
    np.testing.assert_allclose(found, wanted, atol=5e-2 if family == "logistic" else 1e-4, err_msg=family)


def test_the_order_of_the_pictures_does_not_matter(data, found):
    order = np.random.default_rng(6).permutation(90)
    other = searched(SimpleNamespace(X=data.X[order], y=data.y[order], folds=data.folds[:, order]))
    for family in SINGLE:
        assert best(other, family).candidate.penalty == pytest.approx(best(found, family).candidate.penalty, rel=1e-6)
        close(other.logits[family], family, found.logits[family][order])
        candidate = best(found, family).candidate
        heads = [fit_head(data.X[o], data.y[o], candidate, seed=0) for o in (np.arange(90), order)]
        close(heads[1].logits(data.X), family, heads[0].logits(data.X))
    assert other.chosen().candidate.family == found.chosen().candidate.family


def test_the_numbers_of_the_classes_do_not_matter(data, found):
    number = np.array([2, 0, 1])  # new number of each class
    other = searched(SimpleNamespace(X=data.X, y=number[data.y], folds=data.folds))
    for family in SINGLE:
        close(other.logits[family][:, number], family, found.logits[family])
        candidate = best(found, family).candidate
        heads = [fit_head(data.X, y, candidate, seed=0) for y in (data.y, number[data.y])]
        close(heads[1].logits(data.X)[:, number], family, heads[0].logits(data.X))
    assert other.chosen().candidate.family == found.chosen().candidate.family


def test_no_label_of_a_pictures_own_fold_reaches_its_logits(data, monkeypatch):
    monkeypatch.setattr("graftage.learn.search.TRANSFORMS", ("unit",))
    monkeypatch.setattr(defaults, "ridge_path", lambda _: np.array([0.1]))
    monkeypatch.setattr(defaults, "logistic_path", lambda: np.array([10.0]))
    own, y = data.folds[0] == 1, data.y.copy()
    y[own] = (y[own] + 1) % 3
    runs = [searched(SimpleNamespace(X=data.X, y=labels, folds=data.folds[:1]), *SINGLE) for labels in (data.y, y)]
    for family in SINGLE:
        close(runs[1].logits[family][own], family, runs[0].logits[family][own])
        assert np.abs(runs[1].logits[family][~own] - runs[0].logits[family][~own]).max() > 0.1
