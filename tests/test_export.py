"""Exports: the model's answers in other runtimes, from raw bytes; what differs is not kept."""

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import graftage as gr
from graftage.data.decode import decode
from graftage.data.inputs import Input
from graftage.features.preprocess import FITS
from graftage.learn.head import Head, transform
from graftage.learn.temperature import softmax
from graftage.measure.unlike import Scale, Unlike, fit_geometry, held_out_scores, left_out
from graftage.serve import checking, flagging, targets
from graftage.serve import export as work
from graftage.serve.bundle import load as load_bundle
from graftage.serve.bundle import save as save_bundle
from graftage.serve.checking import Answer, judged
from graftage.serve.export import Exported
from graftage.serve.flagging import Flag, flags_of, made_strange, require_same
from graftage.serve.predict import Predictor, load
from graftage.serve.unlikegraph import UnlikeGraph
from graftage.serve.wholegraph import HeadGraph, WholeGraph
from photos import graftage
from test_data_colour import BLUE, GREEN, RED, linear_profile

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.usefixtures("onnx_once")
FORMATS = ("onnx", "openvino", "torch")
# runs a program as a machine without graftage would
WITHOUT = "import runpy, sys; sys.modules['graftage'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"


def with_detector(path: Path, pictures: Path) -> None:
    """Puts a detector that flags 5 % into a model file that learnt from too few pictures to have one."""
    predictor = load(path, device="cpu", precision="float32")
    files = sorted(pictures.rglob("*.jpg"))
    answers = list(predictor.answers(Input(str(file), file) for file in files))
    X = np.array([answer.features for answer in answers])
    y = np.array([predictor.classes.index(file.parent.name) for file in files])
    p, rng = np.array([answer.prediction.probabilities for answer in answers]), np.random.default_rng(0)
    _, scores = held_out_scores(X, y, left_out(np.arange(len(y)), rng), p, rng=rng)
    unlike = Unlike(fit_geometry(X, y, rng=rng), Scale.of(scores), 0.05)
    bundle = predictor.bundle
    save_bundle(replace(bundle, decisions=replace(bundle.decisions, unlike=unlike)), path)


@pytest.fixture(scope="module")
def run(class_folders: Path, weights_file: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a tiny network, and a detector of strange pictures."""
    folder = tmp_path_factory.mktemp("export") / "run"
    options = ("--recipe", "linear", "--folds", "3", "--backbone", weights_file("test_efficientnet"))
    said = graftage("train", class_folders, "-o", folder, *options)
    assert said.status == 0, said.err
    with_detector(folder / "model.safetensors", class_folders)
    return folder


@pytest.fixture(scope="module")
def model(run: Path) -> Predictor:
    return load(run / "model.safetensors", device="cpu", precision="float32")


@pytest.fixture(scope="module")
def strange(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures that are turned, large, gray, tall, half transparent, noise, or none."""
    folder = tmp_path_factory.mktemp("strange")
    first = Image.open(class_folders / "2" / "0.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    first.resize((1700, 1300)).save(folder / "large.jpg", exif=exif)
    first.convert("L").save(folder / "gray.png")
    first.resize((60, 900)).save(folder / "tall.webp")
    ghost = first.convert("RGBA")
    ghost.putalpha(90)
    ghost.save(folder / "ghost.png")
    (folder / "noise.png").write_bytes(made_strange()["noise"])
    (folder / "none.jpg").write_text("no picture")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module", params=FORMATS)
def made(request: pytest.FixtureRequest, run: Path, class_folders: Path, strange: list[Path]) -> Exported:
    return gr.export(run / "model.safetensors", to=request.param, check=[class_folders, *strange])


def test_an_export_gives_the_models_answers_from_raw_bytes(made: Exported) -> None:
    checked = made.checked
    assert (checked.n, checked.rejected, checked.same) == (53, 1, 53)
    assert checked.worst < 1e-4
    assert checked.otherwise == 1  # the transparent one
    assert "53 got the same label" in made.summary[0]


def test_an_export_flags_the_pictures_that_the_model_flags(made: Exported) -> None:
    flags = made.checked.flags
    assert flags is not None
    assert (flags.n, flags.same, flags.flagged) == (53, 53, flags.other)
    assert flags.flagged >= 1
    assert (flags.strange, flags.strange_same) == (4, 4)
    assert flags.strange_flagged >= 1
    assert flags.worst <= 5.01 / 49  # of held-out pictures: with random weights all features are nearly alike
    assert flags.mean < 0.01
    assert made.summary[1].startswith("flag for pictures unlike those trained on: the same for 53 of 53 pictures (")


def test_the_file_tells_classes_thresholds_card_and_check(made: Exported, model: Predictor) -> None:
    target = targets.TARGETS[made.target]
    card = target.read(made.folder / target.file)
    assert card["classes"] == ["1", "2", "10"]
    assert card["checked"]["worst"] == made.checked.worst
    assert card["preprocess"] == model.bundle.preprocess.to_json()
    assert card["short_side"] == 1.25 * model.bundle.preprocess.cover
    sets = model.decisions.sets
    assert sets is not None
    assert card["decisions"]["sets"]["threshold"] == sets.threshold
    assert card["card"][0]["heading"] == "Intended use"
    unlike = model.decisions.unlike
    assert unlike is not None
    assert card["decisions"]["unlike"] == {"k": unlike.geometry.k, "false_alarm": 0.05}
    assert [output["name"] for output in card["outputs"]] == ["probabilities", "unlike_p", "unlike"]
    assert card["checked"]["flags"]["same"] == 53


def test_nothing_in_the_folder_tells_where_it_was_made(made: Exported) -> None:
    here = [str(Path(gr.__file__).parent.parent), "site-packages", str(Path.home())]
    for name in made.files:
        content = (made.folder / name).read_bytes()
        assert [place for place in here if place.encode() in content] == []


def test_the_example_answers_where_there_is_no_graftage(
    made: Exported, model: Predictor, strange: list[Path], class_folders: Path
) -> None:
    chosen = [path for path in strange if path.stem in ("large", "gray", "tall", "noise")]
    pictures = [class_folders / "1" / "3.jpg", *chosen]
    command = [sys.executable, "-I", "-c", WITHOUT, str(made.folder / "example.py"), *map(str, pictures)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    for line, path, answer in zip(done.stdout.splitlines(), pictures, model.predict(pictures), strict=True):
        said, label, probability, names, *remarks = line.split("\t")
        assert (said, label) == (str(path), answer.label)
        assert float(probability) == pytest.approx(answer.probability, abs=1e-4)
        assert ast.literal_eval(names) == list(answer.prediction_set)
        assert ("unsure" in remarks) == bool(answer.abstained)
        assert ("unlike anything seen in training" in remarks) == answer.unlike
    assert done.stdout.count("unlike anything seen in training") >= 1


def test_the_onnx_file_passes_the_checker_and_says_its_opset(made: Exported) -> None:
    if made.target != "onnx":
        return
    import onnx

    model = onnx.load(made.folder / "model.onnx")
    onnx.checker.check_model(model)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [targets.OPSET]
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dimensions] == ["height", "width", 3]


# ---------------------------------------------------------------- parts of the graph


@pytest.mark.parametrize("fit", FITS)
def test_the_whole_graph_gives_the_models_answers_for_every_fit(
    fit: str, model: Predictor, strange: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    bundle = model.bundle
    save_bundle(replace(bundle, preprocess=bundle.preprocess.with_fit(fit)), path)  # type: ignore[arg-type]
    other = load(path, device="cpu", precision="float32")
    graph = WholeGraph(other.bundle).eval()
    for data in (picture.read_bytes() for picture in strange if picture.stem != "none"):
        pixels = decode(data, cover=bundle.preprocess.cover).pixels
        with torch.inference_mode():
            found = graph(torch.from_numpy(np.array(pixels)))[0].numpy()
        assert found == pytest.approx(other.predict_bytes(data).probabilities, abs=1e-5)


def heads() -> list[Head]:
    rng = np.random.default_rng(1)
    weights, bias = rng.normal(size=(4, 20)), rng.normal(size=4)
    support = rng.normal(size=(7, 20)).astype(np.float32)
    support /= np.linalg.norm(support, axis=1, keepdims=True)
    plain = Head.linear("unit", weights, bias)
    kernel = {"coefficients": rng.normal(size=(4, 7)).astype(np.float32), "support": support}
    return [
        plain,
        Head.linear("root", weights, bias),
        Head.linear("plain", rng.normal(size=(4, 9)), bias, hidden=(rng.normal(size=(9, 20)), rng.normal(size=9))),
        replace(plain, kernel="arc-cosine", **kernel),  # type: ignore[arg-type]
        replace(plain, kernel="gaussian", scale=1.7, **kernel),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("head", heads(), ids=["unit", "root", "hidden", "arc-cosine", "gaussian"])
def test_every_kind_of_head_is_the_same_in_the_graph(head: Head, exact: bool) -> None:
    X = np.random.default_rng(2).normal(size=(30, 20)).astype(np.float32)
    X[0] = 0  # features without a direction
    expected = softmax(head.logits(X) / 0.6)
    with torch.inference_mode():
        found = HeadGraph(head, 0.6, exact=exact)(torch.from_numpy(X)).numpy()
    assert found == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("exact", [True, False])
def test_thousands_of_large_coefficients_that_cancel_keep_their_digits(exact: bool) -> None:
    rng = np.random.default_rng(3)
    around = np.abs(rng.normal(size=40))  # all features have a direction in common, as those of networks do
    support = transform(around + rng.normal(size=(3000, 40)) / 2, "unit")
    coefficients = rng.normal(scale=40.0, size=(2, 3000))
    coefficients -= coefficients.mean(axis=1, keepdims=True)
    plain = Head.linear("unit", np.zeros((2, 40)), np.zeros(2))
    head = replace(plain, kernel="gaussian", scale=0.6, support=support, coefficients=coefficients.astype(np.float32))
    X = (around + rng.normal(size=(50, 40)) / 2).astype(np.float32)
    with torch.inference_mode():
        found = HeadGraph(head, 30.0, exact=exact)(torch.from_numpy(X)).numpy()
    assert np.abs(found - softmax(head.logits(X) / 30.0)).max() < 1e-5  # added in float32, one by one: 2e-5


@pytest.mark.parametrize(("n", "d", "k"), [(300, 200, 3), (150, 12, 2), (900, 40, 130)])
def test_the_detector_is_the_same_in_the_graph(n: int, d: int, k: int) -> None:
    """Pictures like those trained on, odd ones, and features without a direction; classes few and many."""
    rng = np.random.default_rng(n)
    y = np.arange(n) % k
    centres = rng.normal(size=(k, d)) + 2
    X = (centres[y] + rng.normal(size=(n, d))).astype(np.float32)
    p = softmax(4 * rng.normal(size=(n, k)))
    _, scores = held_out_scores(X, y, left_out(np.arange(n), rng), p, rng=rng)
    unlike = Unlike(fit_geometry(X, y, rng=rng), Scale.of(scores), 0.03)
    Q = np.concatenate([centres[y[:150]] + rng.normal(size=(150, d)), rng.normal(size=(50, d)), np.zeros((1, d))])
    q = softmax(rng.gamma(1.0, 9.0, size=(len(Q), 1)) * rng.normal(size=(len(Q), k)))  # some as good as certain
    expected = unlike.p_values(Q.astype(np.float32), q)
    graph = UnlikeGraph(unlike)
    with torch.inference_mode():
        rows = zip(torch.from_numpy(Q.astype(np.float32)), torch.from_numpy(q.astype(np.float32)), strict=True)
        found = [(float(a), bool(b)) for a, b in (graph(x[None], row[None]) for x, row in rows)]
    off = np.abs(expected - [a for a, _ in found])
    assert off.max() <= 1.01 / (n + 1)  # one held-out picture more or less
    assert (off > 1e-6).mean() < 0.05
    sure = np.abs(expected - 0.03) > 1.01 / (n + 1)
    np.testing.assert_array_equal((expected <= 0.03)[sure], np.array([b for _, b in found])[sure])
    assert 0 < (expected <= 0.03).sum() < len(Q)


def test_a_model_without_a_detector_has_a_graph_without_its_outputs(model: Predictor) -> None:
    bundle = replace(model.bundle, decisions=replace(model.decisions, unlike=None))
    graph = WholeGraph(bundle).eval()
    assert graph.outputs == ("probabilities",)
    assert len(graph(torch.zeros(5, 7, 3, dtype=torch.uint8))) == 1


# ---------------------------------------------------------------- refused


def flag(p: float, other_p: float, *, flagged: bool, other: bool) -> Flag:
    return Flag("a.jpg", p, flagged, other_p, other)


def test_a_flag_may_differ_only_next_to_its_threshold(model: Predictor) -> None:
    unlike = model.decisions.unlike  # 48 pictures held out: a p-value moves in steps of 0.0204; flagged up to 0.05
    assert unlike is not None
    same = flag(0.5, 0.5, flagged=False, other=False)
    require_same(unlike, [same, flag(2 / 49, 3 / 49, flagged=True, other=False)])
    for wrong in (
        flag(1 / 49, 2 / 49, flagged=True, other=False),  # two pictures from the threshold
        flag(0.5, 0.61, flagged=False, other=False),
        flag(0.5, float("nan"), flagged=False, other=False),
    ):
        with pytest.raises(gr.ExportError, match=r"whether 1 of 2 pictures are unlike .*Worst: a\.jpg: p 0\."):
            require_same(unlike, [same, wrong])


def test_flags_are_counted_as_they_fell() -> None:
    flags = [flag(0.5, 0.4, flagged=False, other=False), flag(0.01, 0.02, flagged=True, other=False)]
    found = flags_of(flags, flags[:1])
    assert found is not None
    assert (found.n, found.same, found.flagged, found.other, found.strange_same) == (2, 1, 1, 0, 1)
    assert (found.worst, found.mean, found.holds) == (pytest.approx(0.1), pytest.approx(0.055), False)
    assert flags_of([], []) is None


def test_a_detector_that_judges_otherwise_is_refused(
    run: Path, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disturbed(bundle: object, *, exact: bool) -> WholeGraph:
        graph = WholeGraph(bundle, exact=exact)  # type: ignore[arg-type]
        assert graph.unlike is not None
        graph.unlike.centre += 1
        return graph

    monkeypatch.setattr(work, "WholeGraph", disturbed)
    with pytest.raises(gr.ExportError, match=r"judges otherwise than the model whether \d+ of 20 pictures are unlike"):
        gr.export(run / "model.safetensors", to="torch", check=[class_folders / "1"], output=tmp_path / "out" / "made")
    assert list((tmp_path / "out").iterdir()) == []


def test_in_fewer_bits_a_flag_that_changes_too_much_is_left_out_and_the_file_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flagging, "LEAST_AGREEMENT", 1.1)
    made = gr.export(run, to="onnx", precision="fp16", output=tmp_path / "made", max_loss=20)
    assert made.checked.flags is not None
    assert not made.checked.flags.kept
    assert ": the file is left without the flag" in "\n".join(made.summary)
    card = targets.read_onnx(tmp_path / "made" / "model.onnx")
    assert [output["name"] for output in card["outputs"]] == ["probabilities"]
    assert card["decisions"]["unlike"] is None
    assert card["decisions"]["reasons"]["unlike"].startswith("in fp16 the flag for pictures unlike those trained on is")
    assert targets.open_onnx(tmp_path / "made" / "model.onnx")(np.zeros((9, 9, 3), np.uint8)).unlike is None


def answer(difference: float, *, margin: float = 0.5, other: str = "a") -> Answer:
    return Answer("a.jpg", "a", other, margin, difference)


def test_a_label_may_differ_only_where_the_model_is_undecided() -> None:
    checked = judged([answer(0.0), answer(5e-4, margin=1e-3, other="b")], rejected=2, otherwise=0)
    assert (checked.n, checked.same, checked.rejected, checked.worst) == (2, 1, 2, 5e-4)
    with pytest.raises(gr.ExportError, match=r"for 1 of 2 pictures .*a\.jpg: a → b, off by 5\.0e-04"):
        judged([answer(0.0), answer(5e-4, margin=3e-3, other="b")], rejected=0, otherwise=0)


def test_a_probability_that_is_off_is_refused_and_so_is_one_that_is_no_number() -> None:
    for difference in (2e-3, float("inf")):
        with pytest.raises(gr.ExportError, match="was not kept"):
            judged([answer(difference)], rejected=0, otherwise=0)


def test_nothing_to_compare_is_no_passed_check() -> None:
    with pytest.raises(gr.OptionError, match="none of the 3 pictures"):
        judged([], rejected=3, otherwise=0)


def test_an_export_that_differs_is_refused_and_leaves_nothing(
    run: Path, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = work.WholeGraph

    def disturbed(bundle: object, *, exact: bool) -> WholeGraph:
        graph = whole(bundle, exact=exact)  # type: ignore[arg-type]
        graph.head.bias += torch.tensor([0.0, 0.3, 0.0])
        return graph

    monkeypatch.setattr(work, "WholeGraph", disturbed)
    target = tmp_path / "out" / "torch"
    with pytest.raises(gr.ExportError, match=r"other answers than the model for \d+ of 16 pictures.*Worst: .*jpg: "):
        gr.export(run / "model.safetensors", to="torch", check=[class_folders / "1"], output=target)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_network_that_no_graph_holds_is_refused(model: Predictor) -> None:
    nearest = replace(model.bundle, preprocess=replace(model.bundle.preprocess, interpolation="nearest"))
    with pytest.raises(gr.ExportError, match="resizes pictures by 'nearest'"):
        WholeGraph(nearest)
    keras = replace(model.bundle, backbone=replace(model.bundle.backbone, id="keras/VGG16", architecture="keras/VGG16"))
    with pytest.raises(gr.ExportError, match="keras/VGG16, is run by Keras"):
        WholeGraph(keras)


class Bessel(torch.nn.Module):
    """A network that ONNX has no operator for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


def test_a_network_that_onnx_does_not_know_is_refused_with_the_cause(tmp_path: Path) -> None:
    program = torch.export.export(Bessel(), (torch.rand(3),))
    with pytest.raises(gr.ExportError) as caught:
        targets.write_onnx(program, tmp_path / "model.onnx")
    said = str(caught.value)
    assert said.startswith("the model's network cannot be written as ONNX (No ONNX function found for ")
    assert "bessel_j0" in said
    assert said.endswith("); try --to torch")
    assert said.isprintable()  # no colours of a terminal, one line
    assert list(tmp_path.iterdir()) == []


def test_bad_input_ends_with_2_and_says_what_to_do(run: Path, class_folders: Path, tmp_path: Path) -> None:
    model = run / "model.safetensors"
    alone = shutil.copy(model, tmp_path / "alone.safetensors")
    (tmp_path / "taken").mkdir()
    (tmp_path / "bad.jpg").write_text("no picture")
    (tmp_path / "half").mkdir()
    for options, message in (
        ((model, "--to", "coreml"), "invalid choice: 'coreml'"),
        ((model, "--to", "torch", "-o", tmp_path / "taken"), "taken exists already; name another folder with -o"),
        ((alone, "--to", "torch"), "no ledger.csv that names pictures which are still there: name some with --check"),
        ((alone, "--to", "torch", "--check", tmp_path / "nowhere"), "nowhere: there is no such picture or folder"),
        ((tmp_path / "no.safetensors", "--to", "torch", "--check", class_folders), "no.safetensors: there is no such"),
        ((model, "--to", "web"), "run `npm pack onnxruntime-web@"),
        ((model, "--to", "web", "--runtime", tmp_path / "half"), "half: it lacks ort.wasm.min.js"),
        ((model, "--to", "web", "--runtime", model), "onnxruntime-web cannot be read from it"),
    ):
        said = graftage("export", *options)
        assert said.status == 2, (options, said.err)
        assert message in said.err
    assert not (run / "web").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"alone.safetensors", "taken", "bad.jpg", "half"}


def test_the_readme_shows_the_example_as_it_is() -> None:
    text = (Path(__file__).parent.parent / "docs" / "deploying.md").read_text("utf-8")
    block = next(part for part in text.split("```python\n") if part.startswith("model = onnxruntime")).split("```")[0]
    assert work.example("onnx").endswith(block)


@pytest.mark.parametrize("name", FORMATS)
def test_an_example_is_short_and_knows_nothing_of_graftage(name: str) -> None:
    body = work.example(name).split("\n\n")[-1].splitlines()
    assert len(body) <= 24
    assert "import graftage" not in work.example(name)


def test_metadata_of_an_untouched_model_is_json(model: Predictor) -> None:
    checked = judged([answer(0.0)], rejected=0, otherwise=0)
    card = work.metadata(model.bundle, "onnx", checked)
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    assert load_bundle(Path(model.source)).classes == tuple(card["classes"])


def test_the_examples_decode_a_picture_as_training_did(class_folders: Path) -> None:
    data = BytesIO()
    Image.open(class_folders / "1" / "0.jpg").resize((2000, 1500)).save(data, "JPEG")
    pixels = checking._plainly(data.getvalue(), 1.25 * 256)
    assert pixels.shape == (375, 500, 3)
    np.testing.assert_array_equal(pixels, decode(data.getvalue(), cover=256).pixels)


def test_the_examples_obey_a_colour_profile_and_an_orientation_together(class_folders: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = BytesIO()
    swapped = linear_profile(BLUE, GREEN, RED)
    Image.open(class_folders / "2" / "0.jpg").save(data, "JPEG", icc_profile=swapped, exif=exif)
    expected = decode(data.getvalue(), cover=256)
    assert "ICC profile to sRGB" in expected.notes
    np.testing.assert_array_equal(checking._plainly(data.getvalue(), 320), expected.pixels)
    assert checking._decodes_alike(data.getvalue(), 320, expected.pixels)
