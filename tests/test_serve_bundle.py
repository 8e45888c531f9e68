import errno
import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from graftage.errors import BundleError
from graftage.features.facts import BackboneInfo
from graftage.features.preprocess import Preprocess
from graftage.learn.head import Head
from graftage.measure.decide import Decisions, SetRule, decided
from graftage.measure.unlike import Scale, Unlike, fit_geometry, held_out_scores
from graftage.serve import bundle as module
from graftage.serve.bundle import FORMAT, Bundle, describe, load, save

PREPROCESS = Preprocess("crop", 224, 0.875, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BACKBONE = BackboneInfo(
    id="bundled/tiny",
    architecture="tiny_net",
    features=4,
    input_size=224,
    weights_sha256="0123456789abcdef" * 4,
    licence="Apache-2.0",
    pretraining="ImageNet-1k",
    parameters=9,
    precision="float32",
)


def head(features: int = 4, classes: int = 3) -> Head:
    weights = np.random.default_rng(0).normal(size=(classes, features)).astype(np.float32)
    return Head.linear("root", weights, np.zeros(classes))


def decisions(features: int = 4) -> Decisions:
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(120, features)) + 2, np.arange(120) % 3
    _, scores = held_out_scores(X, y, np.arange(120) % 5, rng.dirichlet(np.ones(3), 120), rng=rng)
    unlike = Unlike(fit_geometry(X, y, rng=rng), Scale.of(scores))
    return Decisions(SetRule(0.9, 0.9, 0.625, 120), None, unlike, {"answers": "too few pictures"})


def bundle(**changes: object) -> Bundle:
    whole = Bundle(
        classes=("cat", "dog", "鸟 'x' \n 🐦"),
        preprocess=PREPROCESS,
        backbone=BACKBONE,
        weights={
            "conv.weight": np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2),
            "bn.num_batches_tracked": np.array(7, dtype=np.int64),
        },
        head=head(),
        temperature=1.25,
        scores={"accuracy": {"value": 0.9, "low": 0.85, "high": 0.93, "method": "wilson"}, "per_class": [0.9, None]},
        data={"n": 30, "classes": {"cat": 10, "dog": 10}, "digest": "ab"},
        settings={"seed": 0, "recipe": "linear"},
        versions={"graftage": "0.1.0", "numpy": "2.0.0"},
        decisions=decisions(),
        pictures={
            "pixels": np.arange(24, dtype=np.uint8).reshape(3, 8),
            "thumbnails": np.arange(3 * 32 * 32).astype(np.uint8).reshape(3, 32, 32),
        },
    )
    return replace(whole, **changes)


def saved(path: Path, **changes: object) -> Path:
    save(bundle(**changes), path)
    return path


def content(whole: Bundle) -> tuple:
    """All of a bundle as one comparable value, tensors by type, shape and bits."""
    tensors = {f"w.{name}": tensor for name, tensor in whole.weights.items()} | whole.head.to_tensors()
    tensors |= {f"p.{name}": tensor for name, tensor in whole.pictures.items()}
    bits = {name: (tensor.dtype.str, tensor.shape, tensor.tobytes()) for name, tensor in tensors.items()}
    unlike = whole.decisions.to_tensors()
    bits |= {f"u.{name}": (array.dtype.str, array.shape, array.tobytes()) for name, array in unlike.items()}
    texts = whole.head.to_json(), whole.decisions.to_json()
    plain = (whole.classes, whole.preprocess, whole.backbone, whole.temperature, whole.created, texts)
    return plain, bits, dict(whole.scores), dict(whole.data), dict(whole.settings), dict(whole.versions)


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def split(raw: bytes) -> tuple[dict, dict, bytes]:
    """The description, the claims about the tensors, and the tensors' bytes of a model file."""
    length = int.from_bytes(raw[:8], "little")
    claims = json.loads(raw[8 : 8 + length])
    return json.loads(claims.pop("__metadata__")["graftage"]), claims, raw[8 + length :]


def forge(path: Path, info: object, claims: dict, data: bytes) -> Path:
    """Sign and write what may be nonsense."""
    signed = hashlib.sha256(compact([info, claims]).encode() + data).hexdigest()
    header = compact({"__metadata__": {"graftage": compact(info), "sha256": signed}, **claims}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> bytes:
    return saved(tmp_path_factory.mktemp("valid") / "m.safetensors").read_bytes()


# ---------------------------------------------------------------- round trip


def test_every_field_and_every_bit_comes_back(tmp_path):
    assert content(load(saved(tmp_path / "m"))) == content(bundle())


def test_a_field_that_differs_is_seen_by_this_comparison():
    assert content(bundle(temperature=2.0)) != content(bundle())
    assert content(bundle(weights={"x": np.zeros(1, np.float32)})) != content(bundle())


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=2, max_size=5, unique=True))
@settings(max_examples=60, deadline=None)
def test_class_names_of_any_unicode_survive_in_order(tmp_path_factory, names):
    path = saved(tmp_path_factory.getbasetemp() / "u", classes=tuple(names), head=head(classes=len(names)))
    assert load(path).classes == tuple(names)


def test_the_same_bundle_gives_the_same_bytes(tmp_path, valid):
    again = bundle(weights=dict(reversed(bundle().weights.items())), data=dict(reversed(bundle().data.items())))
    save(again, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == valid


def test_what_was_loaded_is_saved_as_the_same_bytes(tmp_path, valid):
    save(load(saved(tmp_path / "m")), tmp_path / "n")
    assert (tmp_path / "n").read_bytes() == valid


def test_a_head_on_bfloat16_features_comes_with_float32_weights(tmp_path):
    path = saved(tmp_path / "m", backbone=replace(BACKBONE, precision="bfloat16"))
    assert load(path).backbone.precision == "bfloat16"
    assert load(path).weights["conv.weight"].dtype == np.float32


def test_the_precision_is_float32_unless_said_otherwise(tmp_path):
    facts = {name: value for name, value in asdict(BACKBONE).items() if name != "precision"}
    assert load(saved(tmp_path / "m", backbone=BackboneInfo(**facts))).backbone.precision == "float32"


def test_a_kernel_head_keeps_the_pictures_it_compares_with(tmp_path):
    rng = np.random.default_rng(1)
    parts = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 4), (3, 6), (3,), (6, 4)))
    kernel = Head("unit", "gaussian", 0.5, *parts)
    features = rng.normal(size=(5, 4)).astype(np.float32)
    found = load(saved(tmp_path / "m", head=kernel)).head
    assert (found.support == kernel.support).all()
    assert (found.logits(features) == kernel.logits(features)).all()


def test_other_tools_read_the_tensors_by_name(tmp_path):
    tensors = safetensors.numpy.load_file(saved(tmp_path / "m"))
    assert {"backbone.conv.weight", "backbone.bn.num_batches_tracked"} < tensors.keys()
    assert any(name.startswith("head.") for name in tensors)


def test_tuples_come_back_as_lists_and_any_mapping_as_a_dict(tmp_path):
    settings_ = MappingProxyType({"mean": (0.1, 0.2), "deep": (MappingProxyType({"a": ((1,),)}),)})
    assert load(saved(tmp_path / "m", settings=settings_)).settings == {"mean": [0.1, 0.2], "deep": [{"a": [[1]]}]}


def test_describe_tells_all_but_the_tensors(tmp_path):
    path = saved(tmp_path / "m")
    told = describe(path)
    assert told["classes"] == list(bundle().classes)
    assert told["backbone"] == asdict(BACKBONE)
    assert told["scores"] == bundle().scores
    assert (told["format"], told["bytes"]) == (FORMAT, path.stat().st_size)
    assert told["tensors"]["backbone.conv.weight"] == {"dtype": "F32", "shape": [2, 1, 2, 2]}


def test_describe_does_not_read_the_tensors(tmp_path, valid):
    (tmp_path / "m").write_bytes(valid[:-1] + bytes([valid[-1] ^ 1]))
    assert describe(tmp_path / "m")["format"] == FORMAT
    with pytest.raises(BundleError, match="checksum"):
        load(tmp_path / "m")


# ---------------------------------------------------------------- saving refuses


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("cat", "dog", "owl\udce9")}, r"owl\\udce9' is no valid Unicode: rename"),
        ({"classes": ("cat", "dog", "")}, "a class name is empty"),
        ({"classes": ("cat", "dog", "cat")}, "a class name appears twice: correct it first"),
        ({"classes": ("cat",)}, "it has 1 classes, but 2 to 100,000"),
        ({"classes": ("cat", "dog")}, "its head knows 3 classes, but 2 have names: correct it first"),
        ({"temperature": 0.0}, r"temperature is 0\.0, but must be above 0"),
        ({"temperature": -1.0}, r"temperature is -1\.0"),
        ({"temperature": float("nan")}, "cannot be written as JSON"),
        ({"temperature": float("inf")}, "cannot be written as JSON"),
        ({"scores": {"x": float("nan")}}, "cannot be written as JSON"),
        ({"settings": {"path": Path("x")}}, "cannot be written as JSON"),
        ({"data": {"counts": {0: 10}}}, "the key 0 is no text"),
        ({"versions": {"numpy": 2}}, "versions are no texts"),
        ({"created": None}, "created is of type NoneType"),
        ({"weights": {}}, "no backbone weights"),
        ({"weights": {"": np.zeros(2, np.float32)}}, r"unknown tensor 'backbone\.'"),
        ({"weights": {"w": np.zeros(2, np.complex64)}}, r"tensor 'backbone\.w' has type complex64"),
        ({"weights": {"w": np.zeros(2, np.uint16)}}, r"tensor 'backbone\.w' has type uint16: convert it"),
        ({"head": head(features=5)}, "its head takes 5 features, but its backbone gives 4"),
        ({"backbone": replace(BACKBONE, weights_sha256="ABC")}, "not 64 hexadecimal digits"),
        ({"backbone": replace(BACKBONE, precision="int4")}, "none of float32, bfloat16"),
        ({"backbone": replace(BACKBONE, features=0)}, "no features"),
        ({"backbone": replace(BACKBONE, input_size=0)}, "no input"),
        ({"backbone": replace(BACKBONE, parameters=-1)}, "fewer than no parameters"),
        ({"backbone": replace(BACKBONE, id="")}, "its backbone has no name"),
        ({"backbone": replace(BACKBONE, features=4.0)}, "features is of type float"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, changes, message):
    with pytest.raises(BundleError, match=f"/m: cannot be saved: .*{message}"):
        save(bundle(**changes), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_the_old_model_alone(tmp_path, monkeypatch):
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    saved(tmp_path / "m", temperature=2.0)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BundleError, match="/m: cannot be saved: No space left on device: check"):
        save(bundle(), tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert load(tmp_path / "m").temperature == 2.0


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(BundleError, match="nowhere/m: cannot be saved: No such file or directory"):
        save(bundle(), tmp_path / "nowhere" / "m")


# ---------------------------------------------------------------- loading refuses


def change(info: dict, path: str, value: object) -> dict:
    """A copy of the description with one value changed; `path` is dotted."""
    first, _, rest = path.partition(".")
    return info | {first: change(info[first], rest, value) if rest else value}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 5, r"made by a newer graftage\? \(format 5, this one reads 4\): upgrade"),
        ("format", 10**4000, "made by a newer graftage"),
        ("format", 0, "format number"),
        ("format", True, "format number"),
        ("format", "1", "format number"),
        ("surprise", 1, "made by a newer graftage.*its description has the unknown field 'surprise'"),
        ("classes", {}, "classes is of type dict"),
        ("classes", ["a", "b", 3], "a class name is empty or no text"),
        ("classes", ["a", "b", ["c"]], "a class name is empty or no text"),
        ("classes", ["a", "b", "a"], "appears twice"),
        ("temperature", 1, "temperature is of type int"),
        ("temperature", None, "temperature is of type NoneType"),
        ("temperature", -0.5, "must be above 0"),
        ("scores", [], "scores is of type list"),
        ("created", 5, "created is of type int"),
        ("versions", {"numpy": [1]}, "versions are no texts"),
        ("backbone.features", True, "features is of type bool"),
        ("backbone.features", 5, "its head takes 4 features, but its backbone gives 5"),
        ("backbone.precision", "float64", "the precision of its features is none of float32, bfloat16"),
        ("backbone.precision", None, "precision is of type NoneType"),
        ("backbone.trick", 1, "made by a newer graftage.*unknown field 'trick'"),
        ("backbone.weights_sha256", "0" * 63, "64 hexadecimal"),
        ("preprocess.size", "224", "its preprocessing"),
        ("preprocess.size", 0, "its preprocessing"),
        ("preprocess.fit", "stretch", "its preprocessing"),
        ("preprocess.mean", [1, 2], "its preprocessing"),
        ("preprocess.mean", [10**400, 0, 0], "its preprocessing"),
        ("preprocess.std", [0.0, 1.0, 1.0], "its preprocessing"),
        ("preprocess.crop_pct", {}, "its preprocessing"),
        ("preprocess.more", 1, "its preprocessing"),
        ("head.transform", "magic", "its head: transform must be one of root, unit"),
        ("head.transform", [], "its head"),
        ("head.kernel", "magic", "its head: kernel must be"),
        ("head.kernel", "gaussian", "its head: a head has a kernel if"),
        ("head.kind", "linear", "its head: a head has exactly the keys"),
        ("head.scale", 10**400, "its head"),
        ("head.scale", -1.0, "its head"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(tmp_path, valid, path, value, message):
    info, claims, data = split(valid)
    with pytest.raises(BundleError, match=f"/m: .*{message}"):
        load(forge(tmp_path / "m", change(info, path, value), claims, data))


def test_describe_checks_the_description_too(tmp_path, valid):
    info, claims, data = split(valid)
    with pytest.raises(BundleError, match="its preprocessing: size must be"):
        describe(forge(tmp_path / "m", change(info, "preprocess.size", 0), claims, data))


def test_the_number_of_classes_is_bounded(tmp_path, valid, monkeypatch):
    (tmp_path / "m").write_bytes(valid)
    monkeypatch.setattr(module, "MAX_CLASSES", 2)
    with pytest.raises(BundleError, match="it has 3 classes, but 2 to 2 are allowed"):
        load(tmp_path / "m")


@pytest.mark.parametrize("field", ["format", "classes", "preprocess", "backbone", "head", "temperature", "created"])
def test_a_missing_field_is_named(tmp_path, valid, field):
    info, claims, data = split(valid)
    del info[field]
    with pytest.raises(BundleError, match="format number" if field == "format" else f"its description lacks {field}"):
        load(forge(tmp_path / "m", info, claims, data))


def test_a_newer_format_is_recognised_even_if_its_tensors_are_of_unknown_types(tmp_path, valid):
    info, claims, data = split(valid)
    claims["backbone.conv.weight"]["dtype"] = "F4"
    with pytest.raises(BundleError, match="format 5, this one reads 4"):
        load(forge(tmp_path / "m", info | {"format": 5}, claims, data))


@pytest.mark.parametrize("name", ["optimizer.state", "backbone", "headless.x", "head."])
def test_a_tensor_that_belongs_to_no_part_is_refused(tmp_path, valid, name):
    info, claims, data = split(valid)
    extra = {name: {"dtype": "U8", "shape": [1], "data_offsets": [len(data), len(data) + 1]}}
    with pytest.raises(BundleError, match=f"newer graftage.*unknown tensor '{name}'"):
        load(forge(tmp_path / "m", info, claims | extra, data + b"\0"))


def test_a_head_tensor_too_many_is_refused(tmp_path, valid):
    info, claims, data = split(valid)
    extra = {"head.more": {"dtype": "U8", "shape": [1], "data_offsets": [len(data), len(data) + 1]}}
    with pytest.raises(BundleError, match="its head"):
        load(forge(tmp_path / "m", info, claims | extra, data + b"\0"))


def test_a_head_tensor_missing_is_refused(tmp_path, valid):
    info, claims, data = split(valid)
    claims["backbone.bias"] = claims.pop("head.bias")
    with pytest.raises(BundleError, match="its head"):
        load(forge(tmp_path / "m", info, claims, data))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_head_that_holds_no_numbers_is_refused(tmp_path, valid, value):
    info, claims, data = split(valid)
    start = claims["head.weights"]["data_offsets"][0]
    broken = data[:start] + np.array([value], "<f4").tobytes() + data[start + 4 :]
    with pytest.raises(BundleError, match=r"tensor 'head\.weights' has values that are no finite numbers"):
        load(forge(tmp_path / "m", info, claims, broken))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BundleError, match="none: there is no such file"):
        load(tmp_path / "none")
    with pytest.raises(BundleError, match="none: there is no such file"):
        describe(tmp_path / "none")


# ---------------------------------------------------------------- any damage at all


def load_or_refuse(raw: bytes, folder: Path) -> bool:
    (folder / "damaged").write_bytes(raw)
    try:
        found = load(folder / "damaged")
    except BundleError:
        return False
    assert content(found) == content(bundle())
    return True


def test_no_bit_flip_and_no_truncation_goes_unnoticed(valid, tmp_path):
    assert load_or_refuse(valid, tmp_path)
    for i in range(0, len(valid), 3):
        flipped = bytearray(valid)
        flipped[i] ^= 1 << (i % 8)
        assert not load_or_refuse(bytes(flipped), tmp_path), i
        assert not load_or_refuse(valid[:i], tmp_path), i


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_splice_escapes_the_checks(valid, tmp_path_factory, data):
    place = st.integers(0, len(valid))
    start, stop, source = data.draw(place), data.draw(place), data.draw(place)
    patch = data.draw(st.binary(max_size=20) | st.just(valid[source : source + 20]))
    load_or_refuse(valid[: min(start, stop)] + patch + valid[max(start, stop) :], tmp_path_factory.getbasetemp())


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"), max_size=5)
nonsense = st.recursive(scalars | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=5)
PLACES = [
    *("format", "classes", "preprocess", "backbone", "head", "temperature", "scores", "versions", "created", "other"),
    *(f"backbone.{name}" for name in asdict(BACKBONE)),
    *(f"preprocess.{name}" for name in PREPROCESS.to_json()),
    *(f"head.{name}" for name in (*head().to_json(), "other")),
]


@given(place=st.sampled_from(PLACES), value=nonsense)
@settings(max_examples=300, deadline=None)
def test_signed_nonsense_in_the_description_loads_or_is_refused(valid, tmp_path_factory, place, value):
    info, claims, data = split(valid)
    path = forge(tmp_path_factory.getbasetemp() / "forged", change(info, place, value), claims, data)
    try:
        found = load(path)
    except BundleError:
        return
    save(found, path)  # what loads is whole: it can be saved again
    assert content(load(path)) == content(found)


def test_a_file_of_format_1_still_loads_and_answers_the_same():
    old = load(Path(__file__).parent / "files" / "format-1.safetensors")
    assert old.classes == ("cat", "dog", "鸟")
    assert old.preprocess == Preprocess("crop", 224, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert (old.backbone.architecture, old.temperature, old.data["n"]) == ("tiny_net", 0.75, 10)
    assert old.weights["bn.num_batches_tracked"] == 7
    answer = old.head.logits(np.array([[1, 4, 0, 9]], np.float32))
    np.testing.assert_allclose(answer, [[1.48913836, -0.48917266, -0.75000989]], rtol=1e-6)
    assert (old.decisions.sets, old.decisions.answers, old.decisions.unlike) == (None, None, None)
    assert set(old.decisions.reasons) == {"sets", "answers", "unlike"}


def test_a_file_of_format_2_still_loads_and_answers_the_same():
    old = load(Path(__file__).parent / "files" / "format-2.safetensors")
    assert (old.classes, old.backbone.output) == (("cat", "dog", "鸟"), "flat")
    answer = old.head.logits(np.ones((1, 4), np.float32))
    np.testing.assert_allclose(answer, [[-2.6142998, -0.2178001, 2.0106999]], rtol=1e-6)
    assert old.decisions.reasons["sets"] == "the model file is of an older format; train it anew"


def test_a_file_of_format_3_still_loads_and_answers_the_same():
    old = load(Path(__file__).parent / "files" / "format-3.safetensors")
    assert (old.classes[:2], old.backbone.output, old.decisions.sets) == (("cat", "dog"), "pooled", decisions().sets)
    assert set(old.pictures) == {"pixels", "thumbnails"}
    answer = old.head.logits(np.ones((1, 4), np.float32))
    np.testing.assert_allclose(answer, [[0.36947405, 1.03850329, -1.27555263]], rtol=1e-6)


def test_the_rules_decide_the_same_after_a_round_trip(tmp_path):
    rng = np.random.default_rng(4)
    X, p = rng.normal(size=(20, 4)).astype(np.float32) + 2, rng.dirichlet(np.ones(3), 20)
    before, after = decided(decisions(), X, p), decided(load(saved(tmp_path / "m")).decisions, X, p)
    assert (before.sets == after.sets).all()
    assert (before.unlike_p == after.unlike_p).all()
    assert after.abstained is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sets": {"coverage": 0.9}}, "its decisions: .*missing"),
        ({"unlike": None}, "its decisions: there are arrays of a detector that is not described"),
        ({"unlike": {"k": 10**9, "false_alarm": 0.01}}, "its decisions: the neighbour that counts"),
        ({"unlike": {"k": 5, "false_alarm": 1.5}}, "its decisions: the false-alarm rate"),
    ],
)
def test_decisions_that_make_no_sense_are_refused(tmp_path, valid, change, reason):
    info, claims, data = split(valid)
    with pytest.raises(BundleError, match=reason):
        load(forge(tmp_path / "m", info | {"decisions": info["decisions"] | change}, claims, data))


def test_a_detector_of_another_width_is_refused(tmp_path):
    with pytest.raises(BundleError, match="its detector takes 5 features, but its backbone gives 4"):
        saved(tmp_path / "m", decisions=decisions(5))


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("pixels", np.zeros((3, 7), np.uint8), "pictures.pixels"),
        ("pixels", np.zeros((3, 8), np.int64), "pictures.pixels"),
        ("thumbnails", np.zeros((3, 32), np.uint8), "pictures.thumbnails"),
        ("faces", np.zeros((3, 8), np.uint8), "pictures.faces"),
    ],
)
def test_signatures_of_another_shape_or_name_are_refused(tmp_path, name, tensor, said):
    with pytest.raises(BundleError, match=said):
        saved(tmp_path / "m", pictures={name: tensor})
