"""Heat maps and similar pictures: exact where the right answer is known, true to the whole, and safe to show."""

import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import graftage as gr
import photos
from graftage.errors import OptionError
from graftage.features.backbone import find
from graftage.features.building import build, random_weights
from graftage.features.facts import BackboneInfo
from graftage.features.preprocess import FITS, Preprocess
from graftage.features.seams import Seam, find_seam
from graftage.features.weights import with_flat_output
from graftage.learn.head import Head
from graftage.learn.temperature import softmax
from graftage.pipeline import fit
from graftage.report import overlay
from graftage.report.explained import Case, ExplainedPage, Like, render
from graftage.serve.attribution import Odds, shares
from graftage.serve.explain import Explainer, over_picture
from graftage.serve.predict import Predictor

DOT = "data:image/png;base64,iVBORw0KGgo="
IMAGENET = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def heads(features: int = 8, classes: int = 3) -> dict[str, Head]:
    rng = np.random.default_rng(3)
    weights, bias = rng.normal(size=(classes, features)), rng.normal(size=classes)
    support = rng.normal(size=(5, features)).astype(np.float32)
    support /= np.linalg.norm(support, axis=1, keepdims=True)
    made = {kind: Head.linear(kind, weights, bias) for kind in ("unit", "root", "plain")}
    hidden = rng.normal(size=(6, features)), rng.normal(size=6)
    made["hidden"] = Head.linear("plain", rng.normal(size=(classes, 6)), bias, hidden=hidden)
    for kernel, scale in (("gaussian", 0.7), ("arc-cosine", 1.0)):
        coefficients = rng.normal(size=(classes, 5)).astype(np.float32)
        parts = weights.astype(np.float32), coefficients, bias.astype(np.float32), support
        made[kernel] = Head("root", kernel, scale, *parts)
    return made


# The head, differentiable


@pytest.mark.parametrize("kind", heads())
def test_the_differentiable_head_is_the_head(kind: str) -> None:
    head, X = heads()[kind], np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    odds = Odds(head, 1.7)
    np.testing.assert_allclose(odds.logits(torch.from_numpy(X)).numpy(), head.logits(X) / 1.7, atol=2e-6)
    p = softmax(head.logits(X) / 1.7)[:, 1]
    np.testing.assert_allclose(odds(torch.from_numpy(X), 1).numpy(), np.log(p / (1 - p)), atol=2e-5)


# Shares whose right values are known


def pooled(side: int) -> Seam:
    return Seam(lambda x: x, lambda a: a.mean((2, 3)), "channels first", side, 0, "the picture itself")


def test_shares_of_a_pooled_linear_network_are_each_cells_own_part_of_the_sum() -> None:
    rng = np.random.default_rng(1)
    W, at, empty = rng.normal(size=(2, 4)), rng.normal(size=(1, 4, 3, 3)), rng.normal(size=(1, 4, 3, 3))
    odds = Odds(Head.linear("plain", W, np.array([0.3, -0.2])), 2.0)
    found = shares(pooled(3), torch.from_numpy(at), torch.from_numpy(empty), odds, 0)
    W32 = W.astype(np.float32).astype(np.float64)
    wanted = np.einsum("c,chw->hw", W32[0] - W32[1], (at - empty)[0]) / (9 * 2.0)
    np.testing.assert_allclose(found.cells, wanted, rtol=1e-10)
    assert abs(found.elsewhere) < 1e-12


@pytest.mark.parametrize("kind", heads())
@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_shares_add_up_to_what_was_gained_whatever_the_head(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    at, empty = (torch.from_numpy(rng.gamma(0.5, size=(1, 8, 3, 3))) for _ in range(2))
    found = shares(pooled(3), at, empty, Odds(heads()[kind], 1.3), 2)
    assert found.cells.sum() == pytest.approx(found.end - found.start, abs=0.1)


def test_cells_that_do_not_differ_from_the_empty_picture_get_nothing() -> None:
    at = torch.rand(1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
    empty = at.clone()
    empty[..., 1, 2] = 0
    cells = shares(pooled(4), at, empty, Odds(heads()["gaussian"], 1.0), 0).cells
    assert cells[1, 2] != 0
    cells[1, 2] = 0
    assert not cells.any()


# Networks of every family


def info_of(architecture: str) -> tuple[BackboneInfo, dict]:
    weights = random_weights(architecture, seed=5)
    size = 160
    width = int(build(architecture, weights)(torch.zeros(1, 3, size, size)).shape[1])
    return BackboneInfo("x", architecture, width, size, "0" * 64, "unknown", "unknown", 1), weights


@pytest.mark.parametrize(
    ("architecture", "layout", "name"),
    [
        ("test_resnet", "channels first", "the last map"),
        ("test_efficientnet", "channels first", "the last map"),
        ("test_convnext", "channels first", "the last map"),
        ("test_vit", "tokens", "blocks"),
        ("tf_efficientnet_lite0", "channels first", "the last map"),
    ],
)
def test_a_networks_parts_in_turn_are_the_network_and_shares_add_up(architecture: str, layout: str, name: str) -> None:
    info, weights = info_of(architecture)
    seam = find_seam(info, weights, 160)
    assert seam is not None
    assert seam.layout == layout
    assert name in seam.name
    body = build(architecture, weights)
    x = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        at, empty = seam.before(x[:1]), seam.before(torch.full((1, 3, 160, 160), 0.4))
        torch.testing.assert_close(seam.after(at), body(x[:1]), rtol=1e-4, atol=1e-5)
    rng = np.random.default_rng(0)
    odds = Odds(Head.linear("unit", rng.normal(size=(3, info.features)), np.zeros(3)), 0.2)
    found = shares(seam, at, empty, odds, 1)
    assert found.cells.shape == (seam.side, seam.side)
    assert found.cells.any()
    assert found.cells.sum() + found.elsewhere == pytest.approx(found.end - found.start, abs=0.05)


def test_a_transformer_that_has_learnt_it_is_seen_to_look_at_the_patch_that_decides() -> None:
    """Grain with one patch, blue or orange, which is the class: the hottest token is that patch's."""
    rng = np.random.default_rng(0)

    def make(n: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        x, y, place = rng.normal(0, 0.3, (n, 3, 160, 160)), rng.integers(0, 2, n), rng.integers(0, 10, (n, 2))
        for i, (row, column) in enumerate(16 * place):
            x[i, :, row : row + 16, column : column + 16] += (4 * y[i] - 2) * np.array([1, 0, -1])[:, None, None]
        return torch.from_numpy(x).float(), torch.from_numpy(y), place

    with torch.random.fork_rng():
        torch.manual_seed(0)
        body, layer = timm.create_model("test_vit", num_classes=0), torch.nn.Linear(64, 2)
        optimiser = torch.optim.AdamW([*body.parameters(), *layer.parameters()], 1e-3)
        for _ in range(60):
            x, y, _ = make(32)
            logits = layer(torch.nn.functional.normalize(body(x), dim=1) * 4)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(logits, y).backward()
            optimiser.step()
    weights = {name: tensor.detach().numpy() for name, tensor in body.state_dict().items()}
    seam = find_seam(replace(info_of("test_vit")[0], features=64), weights, 160)
    odds = Odds(Head.linear("unit", 4 * layer.weight.detach().numpy(), layer.bias.detach().numpy()), 1.0)
    x, y, place = make(16)
    hits, elsewhere = [], []
    for i in range(16):
        blank = x[i : i + 1].mean((2, 3), keepdim=True).expand(1, 3, 160, 160).contiguous()
        with torch.no_grad():
            at, empty = seam.before(x[i : i + 1]), seam.before(blank)
        found = shares(seam, at, empty, odds, int(y[i]))
        hits.append(np.unravel_index(found.cells.argmax(), found.cells.shape) == tuple(place[i]))
        elsewhere.append(abs(found.elsewhere) / (abs(found.elsewhere) + np.abs(found.cells).sum()))
    assert np.mean(hits) >= 0.9
    assert np.mean(elsewhere) < 0.3


def test_a_way_that_begins_at_no_direction_begins_at_the_ways_own() -> None:
    at = torch.rand(1, 8, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    found = shares(pooled(3), at, torch.zeros_like(at), Odds(heads()["unit"], 1.0), 1)
    assert found.start == pytest.approx(found.end, abs=1e-6)  # length is all that grows, and the head ignores it
    assert found.cells.sum() == pytest.approx(0, abs=1e-6)
    assert np.abs(found.cells).max() > 0.01


def test_a_flattened_network_has_its_last_map() -> None:
    backbone, weights = with_flat_output(find("bundled/efficientnet_lite0"))
    seam = find_seam(backbone.info, weights, 224)
    assert seam is not None
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = build(backbone.info.architecture, weights, output="flat")(x)
        torch.testing.assert_close(seam.after(seam.before(x)), wanted)
    assert seam.cells(seam.before(x)).shape == (1, 7, 7)


# Over the picture


@given(st.integers(20, 90), st.integers(20, 90), st.sampled_from(FITS), st.sampled_from([0.6, 0.875, 1.0]))
@settings(max_examples=60, deadline=None)
def test_a_map_of_the_squares_own_brightness_lies_over_the_picture_like_the_picture(
    width: int, height: int, fit: str, crop: float
) -> None:
    y, x = np.mgrid[0:height, 0:width]
    bright = 90 + 120 * x / width - 60 * (y / height) ** 2
    pixels = np.repeat(bright[..., None], 3, 2).astype(np.uint8)
    preprocess = Preprocess(fit, 56, crop, "bilinear", *IMAGENET)
    cells = preprocess.square(pixels)[..., 0].astype(np.float32).reshape(28, 2, 28, 2).mean((1, 3))
    found = over_picture(cells, preprocess, width, height)
    seen = ~np.isnan(found)
    (left, top, right, bottom), _ = preprocess.seen(width, height)
    assert seen.sum() == (np.ceil(right) - np.floor(left)) * (np.ceil(bottom) - np.floor(top))
    inner = np.zeros_like(seen)
    inner[int(top) + 4 : int(bottom) - 4, int(left) + 4 : int(right) - 4] = True
    assert np.abs(found - bright)[inner & seen].max(initial=0) < 8
    if fit != "crop":
        assert seen.all()


# The bundled network on real pictures


@pytest.fixture(scope="module")
def model(finished) -> Predictor:
    return gr.load(finished[0] / "model.safetensors")


def halves(order: tuple[str, str]) -> np.ndarray:
    """Two photographs side by side, uint8 (110, 220, 3)."""
    return np.concatenate([np.asarray(photos.crops(name, 1, seed=99)[0]) for name in order], axis=1)


def png(pixels: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("order", [("flower.jpg", "china.jpg"), ("china.jpg", "flower.jpg")])
def test_a_dahlia_beside_a_palace_is_seen_where_it_is(order: tuple[str, str], class_folders: Path) -> None:
    files = sorted(class_folders.rglob("*.jpg"))
    squash = fit(files, ["dahlia" if f.parent.name == "2" else "palace" for f in files], fit="squash")
    heat = squash.explain(png(halves(order)), label="dahlia").heat.picture
    left, right = heat[:, :110].sum(), heat[:, 110:].sum()
    assert (left > right) == (order[0] == "flower.jpg")


def test_a_mirrored_picture_has_the_mirrored_map(model: Predictor, class_folders: Path) -> None:
    agreement = []
    for path in sorted(class_folders.rglob("*.jpg"))[::9]:
        seen = model.explain(path)
        mirrored = model.explain(png(seen.pixels[:, ::-1]), label=seen.label)
        agreement.append(np.corrcoef(mirrored.heat.cells[:, ::-1].ravel(), seen.heat.cells.ravel())[0, 1])
    assert np.median(agreement) > 0.8


def test_an_explanation_is_the_same_twice_and_agrees_with_the_prediction(model: Predictor, class_folders: Path) -> None:
    path = next((class_folders / "2").iterdir())
    first, again = model.explain(path), model.explain(path.read_bytes())
    assert np.array_equal(first.heat.picture, again.heat.picture, equal_nan=True)
    assert first.similar == again.similar
    assert first.label == first.prediction.label == "2"
    assert first.heat.end == pytest.approx(
        np.log(first.prediction.probability / (1 - first.prediction.probability)), abs=0.15
    )
    assert first.heat.cells.sum() == pytest.approx(first.heat.end - first.heat.start, abs=0.2)


def test_places_are_covered_where_the_network_cannot_be_taken_apart(model: Predictor, class_folders: Path) -> None:
    explainer = Explainer(model.bundle, model.forward)
    explainer.__dict__["_seam"] = None
    pixels = model.explain(next((class_folders / "2").iterdir())).pixels
    heat = explainer.heat(pixels, 1)
    assert (heat.method, heat.cells.shape) == ("occlusion", (7, 7))
    assert heat.cells.max() > 0
    assert not explainer.heat(np.full((60, 60, 3), 90, np.uint8), 1).cells.any()  # covering grey by grey costs nothing


def test_a_picture_it_learnt_from_is_most_like_itself(model: Predictor, class_folders: Path) -> None:
    for path in sorted(class_folders.rglob("*.jpg"))[::7]:
        name = path.relative_to(class_folders).as_posix()
        near = model.explain(path, similar=3).similar
        assert near[0].id == name
        assert near[0].similarity > 0.99
        assert model.classes[near[0].label] == path.parent.name
        assert name not in {n.id for n in model.explain(path, without=frozenset([name])).similar}


def test_an_unknown_class_is_refused(model: Predictor, class_folders: Path) -> None:
    with pytest.raises(OptionError, match="knows no class 'cat'; its classes are '1', '2', '10'"):
        model.explain(next((class_folders / "2").iterdir()), label="cat")


# The command


def test_the_command_leaves_a_page_and_heat_maps(finished, class_folders: Path, tmp_path: Path) -> None:
    good = sorted((class_folders / "2").iterdir())[:2]
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    said = photos.graftage("explain", finished[0] / "model.safetensors", *good, bad, "-o", tmp_path / "out")
    assert said.status == 0, said.err
    assert said.out == f"2 pictures explained, 1 could not be used. {tmp_path / 'out' / 'explain.html'}\n"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted(["explain.html", *(f"{path.stem}-heat.png" for path in good)])
    with Image.open(tmp_path / "out" / f"{good[0].stem}-heat.png") as image:
        assert image.size == (photos.SIDE, photos.SIDE)
    text = (tmp_path / "out" / "explain.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    assert "://" not in text
    assert "{{" not in text
    assert text.count('class="heat-map"') == 2
    assert text.count("Could not be used") == 1
    assert text.count('loading="lazy"') == 10  # training pictures, found through the run's own config.toml


def test_training_pictures_are_shown_only_if_they_are_the_very_files(finished, class_folders, tmp_path) -> None:
    other = photos.three_classes(tmp_path / "photos", 16, seed=5)
    picture = next((class_folders / "2").iterdir())
    page = gr.explain(finished[0], [picture], output=tmp_path / "page.html", photos=other)
    assert page.notes == (f"5 similar pictures are not shown: {other} does not hold them as they were learnt from.",)
    assert 'loading="lazy"' not in page.path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--class", "cat"), "knows no class 'cat'"),
        (("--similar", "99"), "similar must be 0 to 20 training pictures, got 99"),
        (("--photos", "nowhere"), "nowhere is no folder"),
    ],
)
def test_what_cannot_be_done_is_a_sentence_and_status_2(options, said, finished, class_folders, tmp_path) -> None:
    picture = next((class_folders / "2").iterdir())
    page = tmp_path / "page.html"
    answer = photos.graftage("explain", finished[0] / "model.safetensors", picture, "-o", page, *options)
    assert answer.status == 2
    assert said in answer.err
    assert not page.exists()


def test_a_page_among_the_pictures_is_refused(finished, class_folders: Path) -> None:
    with pytest.raises(OptionError, match="would lie among the pictures"):
        gr.explain(finished[0], [class_folders], output=class_folders / "page.html")


def test_the_report_shows_heat_maps_on_its_mistakes(finished, class_folders: Path) -> None:
    rows = photos.table(finished[0] / "predictions.csv")
    wrong = [row["id"] for row in rows if row["label"] != row["predicted"]]
    assert wrong  # two of the classes are hard to tell apart
    text = (finished[0] / "report.html").read_text(encoding="utf-8")
    pairs = re.findall(r'<figure class="pair">.*?</figure>', text, flags=re.DOTALL)
    assert len(pairs) == min(24, len(wrong))
    for pair in pairs:
        own, like = re.findall(r'<span class="file" title="(.*?)">', pair)
        assert own in wrong
        assert own != like
        assert 'class="heat-map" src="data:image/png' in pair
        assert f"most like it <b>{Path(like).parent}</b>" in pair


# The page and its pictures


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=30), st.text(max_size=30))
def test_names_are_shown_as_text_whatever_they_hold(label: str, name: str) -> None:
    hostile = f"{label}<script>{{{{style}}}}\"'\udcff"
    case = Case(hostile, hostile, hostile, ((hostile, 0.5),), DOT, DOT, 0.1, 0.9, (Like(hostile, name, 0.5, DOT),))
    page = render(ExplainedPage(hostile, name, (case, Case(name, hostile)), (hostile,)))
    page.encode("utf-8")
    assert page.count("<script") == 1
    assert page.count("<img") == 3


def test_for_is_orange_against_is_blue_and_unseen_is_grey() -> None:
    heat = np.array([[2, -1], [0, np.nan]], np.float32)
    found = np.asarray(overlay.overlay(heat))
    assert tuple(found[0, 0]) == (*overlay.FOR, 217)
    assert tuple(found[0, 1]) == (*overlay.AGAINST, 108)
    assert found[1, 0, 3] == 0
    assert tuple(found[1, 1]) == (*overlay.UNSEEN, 153)
    assert overlay.overlay(np.zeros((300, 100), np.float32), longest=96).size == (32, 96)
    assert overlay.squared(heat[:1]).shape == (2, 2)
