"""The loop: what it promises of equality, of frozen statistics, of going on, and of batches cut into pieces."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import nn

from graftage.features.stages import after_cut, before_cut, check_cut, choose_cut, stage_cuts, stage_names, units_before
from graftage.learn.defaults import Recipe, recipe
from graftage.learn.network import (
    Network,
    between,
    choose_trainable,
    family_of,
    follow_statistics,
    fresh_head,
    load_arrays,
    merge_adapters,
    normalisations,
    to_arrays,
)
from graftage.learn.task import Task
from graftage.learn.tune import Diverged, Training, balanced_chances, row_weights, schedule

SIZE, CLASSES, N = 64, 3, 24
Y = np.arange(N) % CLASSES


class Kept:
    """Inputs that are there."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def training(self, rows: np.ndarray, _: int) -> torch.Tensor:
        return self.x[torch.from_numpy(rows)]

    def plain(self, rows: np.ndarray) -> torch.Tensor:
        return self.x[torch.from_numpy(rows)]

    def expect(self, _: np.ndarray, __: int) -> None:
        return


@pytest.fixture(scope="module")
def body() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = timm.create_model("test_resnet", num_classes=0)
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    buffer.add_(torch.rand_like(buffer) * 0.1)
    return module.eval()


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(CLASSES, 3, 1, 1, generator=generator)
    return means[torch.from_numpy(Y)] + torch.randn(N, 3, SIZE, SIZE, generator=generator)


def task(body: nn.Module, x: torch.Tensor, hyper: Recipe | None = None, **changes: object) -> Task:
    own = copy.deepcopy(body)
    head = fresh_head(own.num_features, 0, CLASSES, seed=1)
    rows = np.arange(N)
    plain = Recipe("full", "all", epochs=3, batch_size=8, lr=1e-3, head_lr=1e-2)
    made = Task(Network(own, head, unit=True), Kept(x), Y, CLASSES, rows, rows[:0], hyper or plain, (), seed=7)
    return replace(made, **changes)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_tail_on_kept_activations_has_the_losses_of_the_whole_network(
    body: nn.Module, pictures: torch.Tensor
) -> None:
    cut = choose_cut(stage_cuts(body, SIZE), 0.5)
    check_cut(body, cut, SIZE)
    hyper = Recipe("tail", "tail", epochs=4, batch_size=8, lr=1e-3, head_lr=1e-2)
    frozen = units_before(body, SIZE, cut)
    assert frozen
    names = stage_names(body, SIZE)
    whole = Training(task(body, pictures, hyper, frozen=frozen, stages=names))
    with torch.no_grad():
        kept = before_cut(body, cut)(pictures).reshape(N, *cut.shape)
    tail = Training(task(after_cut(body, cut), kept, hyper, stages=names))
    a, b = ([record.train_loss for record in training.run()] for training in (whole, tail))
    assert a == pytest.approx(b, abs=1e-4)
    assert a[-1] < a[0]
    before = to_arrays(body)
    moved = {n for n, v in to_arrays(whole.network.body).items() if not np.array_equal(v, before[n])}
    assert moved
    assert not any(name.startswith(frozen) for name in moved)


@pytest.mark.parametrize("trainable", ["all", "tail", "norm", "lora"])
def test_frozen_statistics_keep_every_bit(body: nn.Module, pictures: torch.Tensor, trainable: str) -> None:
    training = Training(task(body, pictures, Recipe("x", trainable, epochs=1, batch_size=8)))
    list(training.run())
    found = dict(normalisations(training.network))
    assert found
    for name, layer in found.items():
        was = body.get_submodule(name.removeprefix("body."))
        assert torch.equal(layer.running_mean, was.running_mean)
        assert torch.equal(layer.running_var, was.running_var)
        assert layer.num_batches_tracked == was.num_batches_tracked


def test_batch_statistics_move_where_the_recipe_lets_them(body: nn.Module, pictures: torch.Tensor) -> None:
    hyper = Recipe("scratch", "all", epochs=1, batch_size=8, frozen_statistics=False)
    training = Training(task(body, pictures, hyper))
    list(training.run())
    assert not torch.equal(training.network.body.bn1.running_mean, body.bn1.running_mean)


@pytest.mark.parametrize(("batch", "momentum"), [(8, 0.1), (1, 0.1), (24, 0.1)])
def test_running_statistics_keep_up_with_a_short_training(
    body: nn.Module, pictures: torch.Tensor, batch: int, momentum: float
) -> None:
    own = copy.deepcopy(body)
    own.bn1.momentum = 0.01  # as in networks that come from TensorFlow
    hyper = Recipe("scratch", "all", batch_size=batch, frozen_statistics=False)
    assert Training(task(own, pictures, hyper)).network.body.bn1.momentum == pytest.approx(momentum)


def test_over_many_steps_running_statistics_average_over_a_tenth_of_an_epoch(body: nn.Module) -> None:
    own = copy.deepcopy(body)
    follow_statistics(own, 1000)
    assert own.bn1.momentum == pytest.approx(0.01)


def test_the_loss_on_one_batch_goes_to_zero(body: nn.Module, pictures: torch.Tensor) -> None:
    hyper = Recipe("full", "all", epochs=60, batch_size=8, lr=3e-3, head_lr=0.3)
    training = Training(task(body, pictures, hyper, train=np.arange(8)))
    assert list(training.run())[-1].train_loss < 0.02


@pytest.mark.parametrize("hyper", [{}, {"opt": "sgd"}, {"ema": 0.9, "mixup": 0.3, "patience": 1.0, "drop_path": 0.1}])
@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_what_goes_on_from_a_state_gives_the_bits_of_what_was_never_stopped(
    body: nn.Module, pictures: torch.Tensor, hyper: dict, stop: int
) -> None:
    own = replace(Recipe("full", "all", epochs=3, batch_size=8), **hyper)
    rows = np.arange(N)
    split = {"train": rows[:20], "held": rows[20:]}
    whole = Training(task(body, pictures, own, **split))
    records = list(whole.run())

    class Killed(Exception):
        pass

    steps, kept = [0], []

    def kill(now: Training) -> None:
        steps[0] += 1
        if steps[0] == stop:
            kept.append(now.state())
            raise Killed

    broken = Training(task(body, pictures, own, **split))
    with pytest.raises(Killed):
        list(broken.run(kill))
    again = Training(task(body, pictures, own, **split))
    again.restore(kept[0])
    list(again.run())
    assert same(again.weights(), whole.weights())
    assert same(again.state().tensors, whole.state().tensors)
    timeless = [[replace(r, seconds=0.0, pictures_per_second=0.0) for r in t] for t in (again.records, records)]
    assert timeless[0] == timeless[1]


def test_too_large_a_batch_is_cut_and_the_result_stays(body: nn.Module, pictures: torch.Tensor) -> None:
    class Small(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 3 and self.training:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return self.inner(x)

    whole, cut = Training(task(body, pictures)), Training(task(body, pictures))
    cut.network.body = Small(cut.network.body)
    a, b = ([r.train_loss for r in t.run()] for t in (whole, cut))
    assert cut.piece == 2
    assert a == pytest.approx(b, abs=1e-5)


def test_other_faults_are_not_taken_for_a_lack_of_memory(body: nn.Module, pictures: torch.Tensor) -> None:
    with pytest.raises(RuntimeError, match="channels"):
        list(Training(task(body, pictures[:, :2])).run())


def test_a_rate_that_diverges_stops_with_advice(body: nn.Module, pictures: torch.Tensor) -> None:
    hyper = Recipe("full", "all", epochs=9, batch_size=8, opt="sgd", lr=1e30, head_lr=1e30, clip_grad=0.0, warmup=0.0)
    with pytest.raises(Diverged, match="no longer a number; take a lower --lr"):
        list(Training(task(body, pictures, hyper)).run())


def test_patience_keeps_the_best_epoch(body: nn.Module, pictures: torch.Tensor) -> None:
    hyper = Recipe("full", "all", epochs=20, batch_size=8, lr=0.05, head_lr=0.5, patience=0.1)
    wrong = Y.copy()
    wrong[16:] = (Y[16:] + 1) % CLASSES  # what is learnt makes the held-out loss worse
    training = Training(task(body, pictures, hyper, y=wrong, train=np.arange(16), held=np.arange(16, N)))
    records = list(training.run())
    assert len(records) < 20
    assert training.best is not None
    assert training.best[0] == min(record.log_loss for record in records)
    assert records[training.best[1] - 1].log_loss == training.best[0]


def test_nothing_of_the_way_is_the_start_to_the_bit_and_all_of_it_the_end() -> None:
    rng = np.random.default_rng(0)
    start, end = ({"w": rng.normal(size=5).astype(np.float32), "n": np.array(i)} for i in (1, 2))
    assert same(between(start, end, 0.0), start)
    assert same(between(start, end, 1.0), end)
    np.testing.assert_allclose(between(start, end, 0.25)["w"], 0.75 * start["w"] + 0.25 * end["w"], rtol=1e-6)


def test_merged_adapters_answer_as_they_did_beside_the_weights(body: nn.Module, pictures: torch.Tensor) -> None:
    training = Training(task(body, pictures, Recipe("lora", "lora", epochs=2, batch_size=8, lr=1e-2)))
    list(training.run())
    rows = np.arange(N)
    before = training.logits(rows)
    merge_adapters(training.network.body)
    assert list(training.network.body.state_dict()) == list(body.state_dict())
    np.testing.assert_allclose(training.logits(rows), before, atol=1e-4)


def test_only_norms_and_biases_move_with_recipe_norm(body: nn.Module) -> None:
    own = copy.deepcopy(body)
    choose_trainable(own, Recipe("norm", "norm"))
    moving = {name for name, p in own.named_parameters() if p.requires_grad}
    assert moving
    assert {own.get_parameter(name).ndim for name in moving} == {1}


def test_the_rate_rises_then_falls_to_nothing() -> None:
    rates = [schedule(step, 100, 0.1) for step in range(101)]
    assert 0 < rates[0] < 0.2
    assert max(rates) == rates[10] == 1.0
    assert rates[100] == pytest.approx(0, abs=1e-12)
    assert rates[55] == pytest.approx(0.5)
    assert np.all(np.diff(rates[10:]) < 0)


def test_rare_classes_weigh_as_much_as_common_ones() -> None:
    y = np.array([0, 0, 0, 1])
    weights = row_weights(y, np.arange(4), Recipe("tail", "tail", balance="weights"))
    assert weights[:3].sum() == pytest.approx(weights[3])
    assert weights.sum() == pytest.approx(4)
    chances = balanced_chances(y)
    assert (chances[:3].sum(), chances[3]) == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    ("architecture", "family"),
    [("test_resnet", "batchnorm"), ("test_vit", "layernorm"), ("test_convnext", "layernorm"), ("vgg11", "plain")],
)
def test_the_family_is_told_by_the_norms(architecture: str, family: str) -> None:
    with torch.device("meta"):
        assert family_of(timm.create_model(architecture, num_classes=0), architecture) == family


def test_a_self_supervised_network_is_told_by_its_name() -> None:
    with torch.device("meta"):
        module = timm.create_model("test_vit", num_classes=0)
    assert family_of(module, "vit_small_patch14_dinov2.lvd142m") == "selfsupervised"


@pytest.mark.parametrize("name", ["classic", "tail", "full", "lora", "norm", "scratch"])
@pytest.mark.parametrize("family", ["batchnorm", "layernorm", "selfsupervised", "plain"])
def test_every_recipe_has_defaults_for_every_family(name: str, family: str) -> None:
    for n in (50, 1000, 50_000):
        found = recipe(name, family=family, n=n)
        assert found.name == name
        assert found.epochs >= 1
    assert recipe(name, family=family, n=1000, balanced=True).balance == "weights"


def test_weights_go_through_arrays_and_back(body: nn.Module) -> None:
    other = timm.create_model("test_resnet", num_classes=0)
    load_arrays(other, to_arrays(body))
    assert same(to_arrays(other), to_arrays(body))


@pytest.mark.parametrize(
    "architecture", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "vgg11", "regnety_002"]
)
def test_every_cut_of_common_networks_is_true(architecture: str) -> None:
    module = timm.create_model(architecture, num_classes=0).eval()
    size = 160 if architecture.startswith("test") else 96
    if architecture == "vgg11":
        size = 224
    cuts = stage_cuts(module, size)
    assert len(cuts) >= 3
    assert [cut.share for cut in cuts] == sorted((cut.share for cut in cuts), reverse=True)
    for cut in cuts[-4::2]:
        check_cut(module, cut, size)
