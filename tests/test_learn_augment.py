import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage, stats
from torchvision.transforms import functional as tv

from graftage.features.preprocess import FITS, Fit, Preprocess
from graftage.learn import augment as under_test
from graftage.learn.augment import KINDS, Augment, Kind, augmented, flips_change_label, mixed

MEAN = (0.485, 0.456, 0.406)
COLOUR = (124, 116, 104)  # the mean colour in whole steps
PLAIN = Preprocess("squash", 64, 0.875, "bicubic", MEAN, (0.229, 0.224, 0.225))
STILL = Augment(scale=(1, 1), ratio=(1, 1), hflip=0)
Photograph = Callable[[str], np.ndarray]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ramp(height: int, width: int) -> np.ndarray:
    """Every pixel tells where it lies: red rises from 0 to 255 downwards, green to the right."""
    down, right = np.linspace(0, 255, height), np.linspace(0, 255, width)
    return np.stack([*np.meshgrid(down, right, indexing="ij"), np.full((height, width), 255.0)], -1).astype(np.uint8)


# Options


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "auto"}, "kind must be one of none, classic, crop, trivial, got 'auto'"),
        ({"hflip": 1.5}, "hflip must be a chance from 0 to 1, got 1.5"),
        ({"vflip": -0.1}, "vflip must be a chance"),
        ({"erase": math.nan}, "erase must be a chance"),
        ({"scale": (0.0, 1.0)}, "scale must be two rising shares"),
        ({"scale": (0.5, 1.1)}, "scale must be two rising shares"),
        ({"scale": (0.9, 0.8)}, "scale must be two rising shares"),
        ({"ratio": (2.0, 1.0)}, "ratio must be two rising numbers"),
        ({"ratio": (1.0, math.inf)}, "ratio must be two rising numbers"),
        ({"shear": 90.0}, "shear must be 0 to 90"),
        ({"zoom": 1.0}, "zoom must be 0 to 1"),
    ],
)
def test_a_value_outside_its_range_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Augment(**wrong)


# Every kind


@settings(deadline=None, max_examples=80)
@given(
    kind=st.sampled_from(KINDS),
    fit=st.sampled_from(FITS),
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    gray=st.booleans(),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
    seed=st.integers(0, 2**32),
)
def test_any_picture_becomes_a_square_and_the_same_seed_gives_the_same_bytes(
    kind: Kind, fit: Fit, height: int, width: int, gray: bool, scale: tuple[float, float], seed: int
) -> None:
    pixels = rng(seed).integers(0, 256, (height, width, 1 if gray else 3), dtype=np.uint8)
    pixels = np.broadcast_to(pixels, (height, width, 3))
    augment = Augment(kind, (min(scale), max(scale)), hflip=0.5, vflip=0.5, erase=0.5)
    first, again = (augmented(pixels, replace(PLAIN, fit=fit, size=24), augment, rng(seed)) for _ in range(2))
    assert first.shape == (24, 24, 3)
    assert first.dtype == np.uint8
    assert first.flags.c_contiguous
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 2000)])
@pytest.mark.parametrize("kind", ["none", "crop"])
def test_thin_and_tiny_pictures_keep_their_colour(kind: Kind, shape: tuple[int, int], fit: Fit) -> None:
    red = np.full((*shape, 3), (250, 10, 10), np.uint8)
    square = augmented(red, replace(PLAIN, fit=fit), Augment(kind), rng(3))
    assert (np.abs(square.astype(int) - (250, 10, 10)).sum(-1) < 9).any()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_gray_view_gives_what_the_same_picture_in_three_channels_gives(kind: Kind, fit: Fit) -> None:
    gray = rng().integers(0, 256, (50, 70), dtype=np.uint8)
    view, copy = np.broadcast_to(gray[:, :, None], (50, 70, 3)), np.repeat(gray[:, :, None], 3, axis=2)
    for seed in range(12):
        squares = [augmented(p, replace(PLAIN, fit=fit), Augment(kind, erase=0.5), rng(seed)) for p in (view, copy)]
        np.testing.assert_array_equal(*squares)


@pytest.mark.parametrize("fit", FITS)
def test_none_is_the_plain_square_whatever_else_is_asked(fit: Fit, photograph: Photograph) -> None:
    recipe, flips = replace(PLAIN, fit=fit), Augment("none", hflip=1, vflip=1, erase=1)
    flower = photograph("flower.jpg")
    np.testing.assert_array_equal(augmented(flower, recipe, flips, rng()), recipe.square(flower))


# Crops


@pytest.mark.parametrize("shape", [(427, 640), (640, 427), (30, 211)])
@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_a_crop_of_everything_is_the_plain_square(fit: Fit, shape: tuple[int, int]) -> None:
    pixels, recipe = rng().integers(0, 256, (*shape, 3), dtype=np.uint8), replace(PLAIN, fit=fit)
    np.testing.assert_array_equal(augmented(pixels, recipe, STILL, rng()), recipe.square(pixels))


def test_with_crop_the_whole_short_side_is_kept_somewhere_along_the_long_one() -> None:
    views = [augmented(ramp(40, 400), replace(PLAIN, fit="crop"), STILL, rng(i))[..., 1] for i in range(40)]
    left, span = np.array([v.min() for v in views]), np.array([float(v.max()) - v.min() for v in views])
    np.testing.assert_allclose(span, 25.5, atol=2)  # a tenth of the width
    assert left.min() < 25
    assert left.max() > 200


def seen(square: np.ndarray) -> tuple[float, float]:
    """(height, width) that a view of a ramp shows, as shares of the picture; from edge to edge of the outer pixels."""
    grown = len(square) / (len(square) - 1)
    return np.ptp(square[:, 32, 0].astype(float)) / 255 * grown, np.ptp(square[32, :, 1].astype(float)) / 255 * grown


@pytest.mark.parametrize("shape", [(256, 256), (200, 600), (600, 200)])
def test_the_share_of_a_squashed_picture_is_even_between_its_bounds(shape: tuple[int, int]) -> None:
    pixels, augment, draws = ramp(*shape), Augment(scale=(0.4, 1.0), hflip=0), rng()
    shares = np.array([math.prod(seen(augmented(pixels, PLAIN, augment, draws))) for _ in range(400)])
    assert shares.mean() == pytest.approx(0.7, abs=0.03)  # 3.5 standard errors
    assert stats.kstest(shares, "uniform", (0.4, 0.6)).pvalue > 1e-3


@pytest.mark.parametrize("fit", FITS)
def test_the_shape_of_a_crop_is_drawn_about_that_of_the_plain_square(fit: Fit) -> None:
    pixels = ramp(300, 300)
    augment = Augment(scale=(0.2, 0.2), ratio=(0.5, 2.0), hflip=0)
    views = [seen(augmented(pixels, replace(PLAIN, fit=fit), augment, rng(i))) for i in range(300)]
    shapes = np.log2([width / height for height, width in views])
    assert shapes.mean() == pytest.approx(0, abs=0.11)  # ± 3.3 standard errors of an even draw from -1 to 1
    assert shapes.min() < -0.9
    assert shapes.max() > 0.9


def test_with_crop_every_shape_that_lies_inside_the_picture_comes() -> None:
    pixels, recipe, draws = ramp(200, 300), replace(PLAIN, fit="crop"), rng()
    augment = Augment(scale=(0.9, 0.9), ratio=(0.5, 2.0), hflip=0)
    views = np.array([seen(augmented(pixels, recipe, augment, draws)) for _ in range(200)])
    height, width = views[:, 0] * 200, views[:, 1] * 300
    np.testing.assert_allclose(height * width, 0.9 * 200 * 200, rtol=0.05)  # of the largest square
    assert (width / height).min() == pytest.approx(0.9, abs=0.05)  # as high as the picture
    assert (width / height).max() == pytest.approx(2, abs=0.1)


def test_a_squashed_crop_keeps_the_proportions_of_the_squashed_picture() -> None:
    views = [augmented(ramp(100, 400), PLAIN, Augment(ratio=(1, 1), hflip=0), rng(i)) for i in range(20)]
    for height, width in map(seen, views):
        assert height == pytest.approx(width, abs=0.03)


def test_a_crop_looks_everywhere() -> None:
    views = np.array([augmented(ramp(200, 200), PLAIN, Augment(scale=(0.25, 0.25)), rng(i)) for i in range(60)])
    assert views[..., 0].min() < 8
    assert views[..., 0].max() > 247
    assert views[:, 32, 32, :2].std(axis=0).min() > 25  # the middle of the view wanders in both directions


def test_a_padded_crop_shows_at_least_half_of_what_it_could() -> None:
    white = np.full((20, 200, 3), 255, np.uint8)
    recipe, augment = replace(PLAIN, fit="pad"), Augment(scale=(0.1, 0.1), ratio=(1, 1))
    views = [augmented(white, recipe, augment, rng(i)) for i in range(100)]
    shares = np.array([(view > 250).all(-1).mean() for view in views])
    whole = 0.1 / math.sqrt(0.1)  # the strip's height beside that of the crop, both as shares of the canvas
    assert shares.min() > whole / 4 - 0.02  # half of the strip's height over half of the crop's width
    assert shares.max() == pytest.approx(whole, abs=0.02)
    assert all((view == COLOUR).all(-1).any() for view in views)  # the rest has the mean colour


# Flips and holes


@pytest.mark.parametrize("kind", ["classic", "crop"])
def test_flips_turn_a_photograph_over(kind: Kind, photograph: Photograph) -> None:
    palace = photograph("china.jpg")
    upright = augmented(palace, PLAIN, Augment(kind, hflip=0), rng(1))
    assert (upright != upright[:, ::-1]).mean() > 0.5  # the photograph is not symmetrical
    across = augmented(palace, PLAIN, Augment(kind, hflip=1), rng(1))
    down = augmented(palace, PLAIN, Augment(kind, hflip=0, vflip=1), rng(1))
    np.testing.assert_array_equal(across, upright[:, ::-1])
    np.testing.assert_array_equal(down, upright[::-1])


def test_flips_come_as_often_as_asked() -> None:
    augment = replace(STILL, hflip=0.3, vflip=0.1)
    views = [augmented(ramp(16, 16), PLAIN, augment, rng(i)) for i in range(400)]
    across = sum(view[0, 0, 1] > 128 for view in views)
    down = sum(view[0, 0, 0] > 128 for view in views)
    assert stats.binomtest(int(across), 400, 0.3).pvalue > 1e-3
    assert stats.binomtest(int(down), 400, 0.1).pvalue > 1e-3


def test_a_hole_has_the_mean_colour_and_2_to_33_percent() -> None:
    white = np.full((64, 64, 3), 255, np.uint8)
    views = [augmented(white, PLAIN, replace(STILL, erase=1), rng(i)) for i in range(300)]
    holes = [(view == COLOUR).all(-1) for view in views]
    shares = np.array([hole.mean() for hole in holes])
    assert all(set(map(tuple, view.reshape(-1, 3).tolist())) <= {COLOUR, (255, 255, 255)} for view in views)
    assert 0.015 < shares.min() < 0.03
    assert 0.30 < shares.max() < 0.345
    assert shares.mean() == pytest.approx(0.175, abs=0.02)
    for hole in holes:  # one rectangle
        assert hole.sum() == hole.any(0).sum() * hole.any(1).sum()


def test_nothing_of_the_picture_handed_in_is_changed(photograph: Photograph) -> None:
    flower = photograph("flower.jpg").copy()
    before = flower.copy()
    for kind in KINDS:
        augmented(flower, PLAIN, Augment(kind, erase=1), rng())
    np.testing.assert_array_equal(flower, before)


# The textbooks' shear and zoom


@pytest.mark.parametrize(("shear", "down", "across"), [(0, 1, 1), (20, 1, 1), (0, 0.8, 1.2), (-13, 1.2, 1.1)])
def test_shear_and_zoom_are_those_of_keras(shear: float, down: float, across: float, photograph: Photograph) -> None:
    square = PLAIN.square(photograph("china.jpg"))
    # `apply_affine_transform` of Keras: its two matrices, its offset, its call of scipy for each channel
    angle, middle = np.deg2rad(shear), 64 / 2 - 0.5
    matrix = np.array([[1, -np.sin(angle)], [0, np.cos(angle)]]) @ np.array([[down, 0], [0, across]])
    offset = np.array([middle, middle]) - matrix @ np.array([middle, middle])
    planes = [
        ndimage.affine_transform(square[..., k].astype(float), matrix, offset, order=1, mode="nearest")
        for k in range(3)
    ]
    ours = under_test._sheared(square, shear, down, across)
    assert np.abs(ours - np.stack(planes, -1)).max() <= 1.5  # Pillow rounds its weights


def test_classic_changes_a_picture_little_and_never_the_same_way() -> None:
    views = np.array([augmented(ramp(64, 64), PLAIN, Augment("classic", hflip=0), rng(i)) for i in range(50)], float)
    spans = np.ptp(views[:, :, 32, 0], axis=1) / 255
    assert spans.max() == 1  # zoomed out: the edge is repeated, nothing is cut off
    assert spans.min() == pytest.approx(0.8, abs=0.02)
    assert len(np.unique(views[:, 0, 0, 0])) > 5


# TrivialAugment


def operation(name: str, image: Image.Image, strength: float, sign: int) -> Image.Image:
    return under_test._OPERATIONS[name](image, strength, sign * strength, COLOUR)


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("identity", lambda image, *_: image),
        ("brightness", lambda image, s, sign: tv.adjust_brightness(image, 1 + sign * 0.99 * s)),
        ("colour", lambda image, s, sign: tv.adjust_saturation(image, 1 + sign * 0.99 * s)),
        ("contrast", lambda image, s, sign: tv.adjust_contrast(image, 1 + sign * 0.99 * s)),
        ("sharpness", lambda image, s, sign: tv.adjust_sharpness(image, 1 + sign * 0.99 * s)),
        ("posterise", lambda image, s, _: tv.posterize(image, 8 - round(6 * s))),
        ("solarise", lambda image, s, _: tv.solarize(image, round(255 * (1 - s)))),
        ("autocontrast", lambda image, *_: tv.autocontrast(image)),
        ("equalise", lambda image, *_: tv.equalize(image)),
        (
            "rotate",
            lambda image, s, sign: tv.rotate(
                image, sign * 135 * s, interpolation=tv.InterpolationMode.BILINEAR, fill=list(COLOUR)
            ),
        ),
    ],
)
def test_operations_are_those_of_torchvision(
    name: str, theirs: Callable[..., Image.Image], strength: float, sign: int, photograph: Photograph
) -> None:
    image = Image.fromarray(PLAIN.square(photograph("flower.jpg")))
    ours, other = operation(name, image, strength, sign), theirs(image, strength, sign)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(other))


def test_a_shift_moves_by_up_to_a_seventh_and_fills_with_the_mean_colour() -> None:
    image = Image.fromarray(ramp(70, 70))
    moved = np.asarray(operation("shift x", image, 1.0, 1))
    np.testing.assert_array_equal(moved[:, :60], np.asarray(image)[:, 10:])
    assert (moved[:, 60:] == COLOUR).all()
    moved = np.asarray(operation("shift y", image, 1.0, -1))
    np.testing.assert_array_equal(moved[10:], np.asarray(image)[:60])


@pytest.mark.parametrize(("name", "channel"), [("shear x", 1), ("shear y", 0)])
def test_shear_leaves_the_middle_where_it_is(name: str, channel: int) -> None:
    image = Image.fromarray(ramp(64, 64))
    sheared = np.asarray(operation(name, image, 0.5, 1)).astype(int)
    across = sheared if channel else sheared.swapaxes(0, 1)
    np.testing.assert_allclose(across[31:33, 20:44].mean(0), across[32, 20:44], atol=3)
    # a row sixteen above the middle is shifted by 0.99 / 2 * 16 pixels of 4 steps each
    assert across[16, 32, channel] - across[32, 32, channel] == pytest.approx(-0.495 * 16 * 255 / 63, abs=3)


def test_all_fourteen_operations_are_drawn(photograph: Photograph) -> None:
    assert len(under_test._OPERATIONS) == 14
    square, drawn = PLAIN.square(photograph("flower.jpg")), []
    for seed in range(150):
        same = rng(seed)
        drawn.append(list(under_test._OPERATIONS)[int(same.integers(14))])
        strength, sign = float(same.random()), 1 if same.random() < 0.5 else -1
        expected = np.asarray(operation(drawn[-1], Image.fromarray(square), strength, sign))
        np.testing.assert_array_equal(under_test._trivial(square, COLOUR, rng(seed)), expected)
    assert set(drawn) == set(under_test._OPERATIONS)


# Mixed batches


def batch(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)
    return inputs, torch.eye(shape[0])


def test_mixup_by_hand() -> None:
    inputs, targets = batch(3, 4)
    draws = rng(5)
    draws.random()  # whether to mix at all
    share = draws.beta(0.4, 0.4)
    mix, labels = mixed(inputs, targets, mixup=0.4, cutmix=0, probability=1, rng=rng(5))
    x = inputs.numpy()
    np.testing.assert_allclose(mix.numpy()[0], share * x[0] + (1 - share) * x[2], rtol=1e-6)
    np.testing.assert_allclose(mix.numpy()[1], x[1], rtol=1e-6)
    np.testing.assert_allclose(labels.numpy()[0], [share, 0, 1 - share], rtol=1e-6)
    np.testing.assert_allclose(labels.numpy()[2], [1 - share, 0, share], rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5, 9, 7), (4, 12, 12, 3), (4, 5, 3, 3)])
def test_cutmix_labels_are_the_areas_seen(shape: tuple[int, ...]) -> None:
    inputs, targets = batch(*shape)
    for seed in range(30):
        mix, labels = mixed(inputs, targets, mixup=0, cutmix=1, probability=1, rng=rng(seed))
        own, other = (mix == inputs), (mix == inputs.flip(0))
        assert bool((own ^ other).all())
        np.testing.assert_allclose(labels[0].numpy(), [own[0].float().mean(), 0, 0, other[0].float().mean()], atol=1e-6)
        channels = -1 if shape[1] == 12 else 0  # pictures, or maps
        place = other[0].all(channels)
        assert torch.equal(other[0], place.unsqueeze(channels).expand_as(other[0]))
        assert bool(place.sum() == place.any(0).sum() * place.any(1).sum())  # one box, through all channels


def test_the_box_is_timms() -> None:
    inputs, targets = batch(2, 1, 20, 30)
    draws = rng(8)
    draws.random()
    share = draws.beta(2.0, 2.0)
    y, x = draws.integers(20), draws.integers(30)
    height, width = int(20 * math.sqrt(1 - share)), int(30 * math.sqrt(1 - share))
    top, bottom = np.clip([y - height // 2, y + height // 2], 0, 20)
    left, right = np.clip([x - width // 2, x + width // 2], 0, 30)
    expected = inputs.clone()
    expected[:, :, top:bottom, left:right] = inputs.flip(0)[:, :, top:bottom, left:right]
    mix, labels = mixed(inputs, targets, mixup=0, cutmix=2.0, probability=1, rng=rng(8))
    assert torch.equal(mix, expected)
    assert labels[0, 1].item() == pytest.approx((bottom - top) * (right - left) / 600)


def test_flat_features_are_blended_even_where_boxes_are_asked_for() -> None:
    inputs, targets = batch(2, 6)
    mix, labels = mixed(inputs, targets, mixup=0, cutmix=1, probability=1, rng=rng(0))
    np.testing.assert_allclose(mix[0], labels[0, 0] * inputs[0] + labels[0, 1] * inputs[1], rtol=1e-5)
    assert 0 < labels[0, 0] < 1


def test_a_batch_is_mixed_as_often_as_asked_and_a_coin_chooses_between_the_two() -> None:
    inputs, targets = batch(4, 2, 8, 8)
    left, blended, cut = 0, 0, 0
    for seed in range(600):
        mix, labels = mixed(inputs, targets, mixup=1, cutmix=1, probability=0.6, rng=rng(seed))
        if torch.equal(labels, targets):  # also a box of no size
            left += 1
        elif bool(((mix == inputs) | (mix == inputs.flip(0))).all()):
            cut += 1
        else:
            blended += 1
    assert stats.binomtest(left, 600, 0.4).pvalue > 1e-4
    assert stats.binomtest(cut, cut + blended, 0.5).pvalue > 1e-4


def test_nothing_is_mixed_where_both_are_off() -> None:
    inputs, targets = batch(2, 3)
    mix, labels = mixed(inputs, targets, mixup=0, cutmix=0, probability=1, rng=rng())
    assert mix is inputs
    assert labels is targets


@settings(deadline=None, max_examples=50)
@given(
    b=st.integers(1, 5), mixup=st.floats(0, 2), cutmix=st.floats(0, 2), seed=st.integers(0, 2**32), maps=st.booleans()
)
def test_targets_stay_shares_of_one(b: int, mixup: float, cutmix: float, seed: int, maps: bool) -> None:
    inputs, targets = batch(b, 3, 5, 4) if maps else batch(b, 3)
    before = inputs.clone()
    mix, labels = mixed(inputs, targets, mixup=mixup, cutmix=cutmix, probability=1, rng=rng(seed))
    assert mix.shape == inputs.shape
    assert labels.sum(1).numpy() == pytest.approx(1, abs=1e-5)
    assert bool((labels >= 0).all())
    assert torch.equal(inputs, before)


# Whether flips are allowed


def answers(labels: list[int], k: int = 3) -> np.ndarray:
    """Probabilities that give these classes."""
    return 0.1 + 0.7 * np.eye(k)[labels]


def test_letters_that_mirror_into_each_other_forbid_flips() -> None:
    y = np.array([0] * 20 + [1] * 20 + [2] * 20)
    mirrored = [1] * 20 + [0] * 18 + [1] * 2 + [2] * 20
    said = flips_change_label(answers(y.tolist()), answers(mirrored), y, classes=("b", "d", "o"))
    assert said == (
        "mirrored pictures of 'b' are taken for 'd': of 20 whose answer changes between the two, 20 are right only "
        "upright (sign test, p = 1e-06)"
    )
    assert "class 0 are taken for class 1" in flips_change_label(answers(y.tolist()), answers(mirrored), y)


def test_mistakes_that_come_both_ways_forbid_nothing() -> None:
    y = np.zeros(40, np.int64)
    upright, mirrored = [0] * 20 + [1] * 20, [1] * 20 + [0] * 20
    assert flips_change_label(answers(upright), answers(mirrored), y) == ""


def test_mistakes_on_both_the_picture_and_its_mirror_image_say_nothing() -> None:
    y = np.zeros(40, np.int64)
    assert flips_change_label(answers([1] * 40), answers([2] * 40), y) == ""
    assert flips_change_label(answers([0] * 40), answers([0] * 40), y) == ""


@pytest.mark.parametrize("other_pairs", [0, 1])
def test_the_level_is_shared_by_the_pairs_that_have_any(other_pairs: int) -> None:
    # seven of seven: p = 0.0078, enough at 0.01, not at 0.005
    y = np.array([0] * 7 + [2] * other_pairs)
    upright, mirrored = [0] * 7 + [2] * other_pairs, [1] * 7 + [1] * other_pairs
    assert bool(flips_change_label(answers(upright), answers(mirrored), y)) == (other_pairs == 0)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.integers(2, 4), st.integers(1, 120), st.floats(0, 1))
def test_the_verdict_is_that_of_scipys_binomial_test(seed: int, k: int, n: int, turned: float) -> None:
    draws = rng(seed)
    y, p = draws.integers(0, k, n), draws.dirichlet(np.ones(k), n)
    right = draws.random(n) < turned
    p[right] = answers(y[right].tolist(), k)
    flipped = np.where((draws.random(n) < turned)[:, None], np.roll(p, 1, axis=1), draws.dirichlet(np.ones(k), n))
    first, second = p.argmax(1), flipped.argmax(1)
    chances = []
    for a in range(k):
        for b in set(range(k)) - {a}:
            away = int(((y == a) & (first == a) & (second == b)).sum())
            back = int(((y == a) & (first == b) & (second == a)).sum())
            if away + back:
                chances.append(stats.binomtest(away, away + back, alternative="greater").pvalue)
    forbidden = bool(chances) and min(chances) < 0.01 / len(chances)
    assert bool(flips_change_label(p, flipped, y)) == forbidden
