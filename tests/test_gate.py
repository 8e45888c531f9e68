"""The leak gate: nothing that belongs together is ever on both sides, and what leaks is told and taken out."""

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import cross_val_predict

import graftage as gr
import photos
from graftage import gate, parting, steps
from graftage.data.catalog import Catalog, Entry
from graftage.data.decode import inspect
from graftage.data.grouping import by_pattern, groups_of, suspicions
from graftage.data.split import folds
from graftage.ground import parts
from graftage.settings import Settings
from photos import by_id, graftage, read_json, save, table

QUICK = ("--folds", "3", "--fit", "crop")


def train(data: Path, output: Path, *options: object) -> photos.Said:
    said = graftage("train", data, "-o", output, *QUICK, *options)
    assert said.status == 0, said.err
    return said


def entry(i: int, label: int, *, group: int = -1, split: str = "", digest: str = "") -> Entry:
    return Entry(i, f"{i}.jpg", Path(f"{i}.jpg"), "used", "", label, split, group, 8, 8, digest or str(i))


# ---------------------------------------------------------------- no group is ever split


@st.composite
def catalogs(draw: st.DrawFn, splits: tuple[str, ...] = ("",)) -> Catalog:
    """Pictures of two or three classes in groups of any size, some of them equal files, in the folders `splits`."""
    n, k = draw(st.integers(12, 60)), draw(st.integers(2, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    y = np.concatenate([np.arange(k), np.arange(k), rng.integers(0, k, n - 2 * k)])
    group = rng.integers(0, draw(st.integers(8, n)), n)
    group[: 2 * k] = np.arange(100, 100 + 2 * k)
    digests = [str(rng.integers(0, 3 * n)) for _ in range(n)]
    where = [splits[0] if i < 2 * k else splits[rng.integers(len(splits))] for i in range(n)]
    entries = [entry(i, int(y[i]), group=int(group[i]), split=where[i], digest=digests[i]) for i in range(n)]
    return Catalog("photos", tuple("abc"[:k]), tuple(entries))


KINDS = [(("",), {"test": "none"}), (("",), {"test": "0.3"}), (("train", "test"), {}), (("train", "val"), {})]


@pytest.mark.parametrize(("splits", "options"), KINDS)
@settings(max_examples=50, deadline=None)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_no_group_is_ever_split(
    splits: tuple[str, ...], options: dict[str, str], data: st.DataObject, seed: int
) -> None:
    """In any kind of split: between train and test, between folds, and between the sides of a training on a fold."""
    catalog = data.draw(catalogs(splits))
    try:
        split = parting.partition(catalog, Settings("photos", seed=seed, **options))
    except gr.DataError:  # no picture is left to test on
        return
    groups, y = groups_of(catalog), catalog.labels()
    assert not set(groups[split.train]) & set(groups[split.test])
    assert set(groups[split.leaked]) <= set(groups[split.train])
    assert sorted([*split.train, *split.test, *split.leaked]) == list(range(len(y)))
    mine, own = groups[split.train], y[split.train]
    if len(np.unique(mine)) < 3:
        return
    held = folds(own, mine, k=3, repeats=2, rng=np.random.default_rng(seed))
    for fold in held:
        for group in np.unique(mine):
            assert len(set(fold[mine == group])) == 1
    for fold in range(3):
        for at_most in (None, 5):
            learnt, out = parts(own, held[0], mine, fold, at_most=at_most, seed=seed)
            assert not set(mine[learnt]) & set(mine[out])
            assert sorted([*learnt, *out]) == list(range(len(own)))


@settings(max_examples=60, deadline=None)
@given(catalog=catalogs(), twin=st.integers(0, 11), seed=st.integers(0, 1000))
def test_an_added_exact_duplicate_never_sits_in_another_fold_than_its_twin(
    catalog: Catalog, twin: int, seed: int
) -> None:
    """T20 of the methods."""
    n = len(catalog.entries)
    added = replace(entry(n, catalog.entries[twin].label), digest=catalog.entries[twin].digest)
    more = replace(catalog, entries=(*catalog.entries, added))
    groups = groups_of(more)
    assert groups[n] == groups[twin]
    if len(np.unique(groups)) >= 3:
        held = folds(more.labels(), groups, k=3, repeats=3, rng=np.random.default_rng(seed))
        assert (held[:, n] == held[:, twin]).all()
    split = parting.partition(more, Settings("photos", seed=seed, test="0.3"))
    assert np.isin(n, split.test) == np.isin(twin, split.test)


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Pictures of which some are there again: as another format, compressed, enlarged, cut, mirrored, in another class.

    With the original of every copy, by ids.
    """
    root = photos.two_classes(tmp_path_factory.mktemp("twins") / "photos", 12)
    origin = {}
    for i, kind in enumerate(("same", "jpeg", "big", "cut", "mirror")):
        image = Image.open(root / "palace" / f"{i}.jpg")
        name = f"palace/{kind}.png"
        made = {
            "same": image,
            "jpeg": image,
            "big": image.resize((143, 143), Image.Resampling.BICUBIC),
            "cut": image.crop((0, 4, 105, 109)),
            "mirror": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        }[kind]
        if kind == "jpeg":
            name = "palace/jpeg.jpg"
            made.save(root / name, quality=75)
        else:
            made.save(root / name)
        origin[name] = f"palace/{i}.jpg"
    Image.open(root / "palace" / "9.jpg").save(root / "dahlia" / "wrong.jpg", quality=70)
    origin["dahlia/wrong.jpg"] = "palace/9.jpg"
    return root, origin


@pytest.fixture(scope="module")
def locked_copies(copied: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("locked") / "run"
    train(copied[0], run, "--test", "0.4")
    return run


def test_copies_are_one_group_and_on_one_side(copied: tuple[Path, dict[str, str]], locked_copies: Path) -> None:
    rows = by_id(locked_copies / "ledger.csv")
    for copy, original in copied[1].items():
        assert rows[copy]["group"] == rows[original]["group"], copy
        assert rows[copy]["split"] == rows[original]["split"], copy
        assert rows[copy]["digest"] != rows[original]["digest"]
    others = set(rows) - set(copied[1]) - set(copied[1].values())
    assert len({rows[name]["group"] for name in others}) == len(others)


def test_copies_are_problems_by_their_kind_and_clashing_labels_come_first(
    copied: tuple[Path, dict[str, str]], locked_copies: Path
) -> None:
    rows = table(locked_copies / "problems.csv")
    assert (rows[0]["severity"], rows[0]["kind"]) == ("error", "conflicting labels")
    assert {rows[0]["id"], rows[0]["detail"].rpartition(" ")[2]} == {"dahlia/wrong.jpg", "palace/9.jpg"}
    kinds = {row["detail"].rpartition(" ")[2]: row["kind"] for row in rows[1:] if "duplicates" in row["kind"]}
    near = {name: "near-duplicates" for name in copied[1] if name not in ("palace/same.png", "dahlia/wrong.jpg")}
    assert kinds == {"palace/same.png": "duplicates", **near}


def test_evaluate_leaves_out_copies_of_training_pictures(
    copied: tuple[Path, dict[str, str]], locked_copies: Path, tmp_path: Path
) -> None:
    learnt = [row["id"] for row in table(locked_copies / "ledger.csv") if row["split"] == "train"]
    names = [name for name in learnt if re.fullmatch(r"palace/\d+\.jpg", name)][:3]
    root = photos.two_classes(tmp_path / "new", 3, seed=77)
    for i, name in enumerate(names):
        image = Image.open(copied[0] / name)
        (image if i else image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)).save(root / "palace" / f"copy{i}.png")
    said = graftage("evaluate", locked_copies / "model.safetensors", root, "-o", tmp_path / "out")
    assert said.status == 0, said.err
    assert "6 pictures measured, 3 left out" in said.out
    assert "3 of 9 pictures were trained on (1 of them as a copy)" in said.out
    reasons = {row["id"]: row["reason"] for row in table(tmp_path / "out" / "ledger.csv") if row["reason"]}
    assert reasons["palace/copy0.png"] == "the model was trained on a copy of it"
    assert reasons["palace/copy1.png"] == "the model was trained on it"  # equal in every pixel
    assert len(reasons) == 3


def test_what_leaks_into_the_users_test_folder_is_told_and_left_out_of_the_score(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    photos.two_classes(root / "train", 10, seed=1)
    photos.two_classes(root / "test", 5, seed=2)
    for i in range(3):
        Image.open(root / "train" / "palace" / f"{i}.jpg").save(root / "test" / "palace" / f"leak{i}.jpg", quality=75)
    said = train(root, tmp_path / "run")
    assert "3 of 13 test pictures are also in train" in said.out
    assert re.search(r"Accuracy without them [\d.]+ % \([\d.]+ to [\d.]+\), with them [\d.]+ % \(", said.out)
    found = read_json(tmp_path / "run" / "metrics.json")
    assert found["scores"]["n"] == 10
    assert (found["leak"]["pictures"], found["leak"]["of"]) == (3, 13)
    assert found["leak"]["scores_with_them"]["n"] == 13
    assert "are also in train" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert len(table(tmp_path / "run" / "predictions.csv")) == 10
    rows = by_id(tmp_path / "run" / "ledger.csv")
    assert [rows[f"test/palace/leak{i}.jpg"]["reason"] for i in range(3)] == [steps.LEAKED] * 3
    kinds = [row["id"] for row in table(tmp_path / "run" / "problems.csv") if row["kind"] == "train and test share"]
    assert sorted(kinds) == [f"test/palace/leak{i}.jpg" for i in range(3)]


def test_a_test_folder_of_nothing_but_training_pictures_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    photos.two_classes(root / "train", 6)
    photos.two_classes(root / "test", 3)  # the first three of each class
    with pytest.raises(gr.DataError, match="each of the 6 pictures to test on is also learnt from"):
        gr.train(root, output=tmp_path / "run", folds="3", fit="crop")


# ---------------------------------------------------------------- groups that the user names


def test_pictures_of_one_group_by_name_are_on_one_side(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for label, name in (("palace", "china.jpg"), ("dahlia", "flower.jpg")):
        for person in range(6):
            save(root / label, photos.crops(name, 3, seed=person), prefix=f"p{person}-")
    train(root, tmp_path / "run", "--test", "0.4", "--group-by", "(p[0-9])-")
    sides = defaultdict(set)
    for row in table(tmp_path / "run" / "ledger.csv"):
        sides[row["id"].split("/")[1][:2]].add((row["group"], row["split"]))
    assert all(len(side) == 1 for side in sides.values())
    assert {split for side in sides.values() for _, split in side} == {"train", "test"}
    assert len({group for side in sides.values() for group, _ in side}) == 6
    assert 'group_by = "(p[0-9])-"' in (tmp_path / "run" / "config.toml").read_text(encoding="utf-8")


def test_a_pattern_without_a_group_takes_the_whole_match() -> None:
    groups, missed = by_pattern(["a/p1_x.jpg", "b/p1_y.jpg", "a/p2.jpg", "a/q.jpg"], re.compile("p[0-9]"))
    assert groups[0] == groups[1] != groups[2]
    assert (groups[3], missed) == (-1, 1)


def test_a_pattern_found_nowhere_is_an_error_that_shows_a_path(class_folders: Path, tmp_path: Path) -> None:
    said = graftage("train", class_folders, "-o", tmp_path / "run", "--group-by", "patient([0-9]+)")
    assert said.status == 2
    assert "'patient([0-9]+)' is found in none of the 48 paths, such as 1/0.jpg" in said.err


def test_a_pattern_that_is_none_is_an_error() -> None:
    with pytest.raises(gr.OptionError, match=r"group_by must be a regular expression .* got '\(a' \(missing \)"):
        Settings("photos", group_by="(a")


# ---------------------------------------------------------------- groups that are only suspected

SERIES = 15  # of each class
LONG = 6  # pictures of a series


def series(n_classes: int = 2) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Ids, labels and features in which a series is easy to know again and its class is not."""
    rng = np.random.default_rng(0)
    ids, y, X = [], [], []
    for label in range(n_classes):
        for one in range(SERIES):
            own = rng.normal(size=32)
            for i in range(LONG):
                ids.append(f"{'ab'[label]}/tree{SERIES * label + one}_{i:03}.jpg")
                y.append(label)
                X.append(own + rng.normal(0, 0.3, 32))
    return ids, np.array(y), np.array(X, dtype=np.float32)


def closed(ids: list[str], y: np.ndarray, X: np.ndarray, taken: list[str] | None = None) -> tuple[Catalog, gate.Gate]:
    taken = taken or [""] * len(ids)
    entries = tuple(
        replace(entry(i, int(y[i])), id=name, taken=time) for i, (name, time) in enumerate(zip(ids, taken, strict=True))
    )
    n = len(ids)
    twins = gate.Twins(np.arange(n), (), 0.9, np.arange(n), 0.95, 0)
    return Catalog("photos", ("a", "b"), entries), gate.Gate(
        np.arange(n), twins, np.arange(n), np.zeros((n, 32, 32), np.uint8), np.zeros((n, 9)), X, ()
    )


def test_series_told_by_names_are_measured_and_the_pattern_is_given() -> None:
    ids, y, X = series()
    catalog, found = closed(ids, y, X)
    (suspected,) = gate.suspected(catalog, found, np.arange(len(ids)), seed=0)
    assert suspected.why == "file names"
    assert suspected.groups == 2 * SERIES
    assert suspected.apart > 0.85
    assert suspected.together < 0.7
    assert suspected.serious
    assert f"--group-by '{suspected.pattern}'" in suspected.line()
    groups, missed = by_pattern(ids, re.compile(suspected.pattern))
    assert (len(np.unique(groups)), missed) == (2 * SERIES, 0)


def test_the_two_scores_are_those_of_fitting_ridge_regression_fold_by_fold() -> None:
    ids, y, X = series()
    catalog, found = closed(ids, y, X)
    (suspected,) = gate.suspected(catalog, found, np.arange(len(ids)), seed=3)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    penalty = 0.1 * (centred**2).sum() / len(unit)
    groups = by_pattern(ids, re.compile(suspected.pattern))[0]
    for own, accuracy in ((np.arange(len(y)), suspected.apart), (groups, suspected.together)):
        fold = folds(y, own, k=5, repeats=1, rng=np.random.default_rng([3, 9]))[0]
        pairs = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(5)]
        called = cross_val_predict(RidgeClassifier(alpha=penalty), unit, y, cv=pairs)
        assert (called == y).mean() == pytest.approx(accuracy, abs=1.5 / len(y))


def test_series_that_cost_nothing_are_no_notice() -> None:
    ids, y, X = series()
    X[:, 0] += 40 * y
    catalog, found = closed(ids, y, X)
    assert not any(each.serious for each in gate.suspected(catalog, found, np.arange(len(ids)), seed=0))


def test_a_series_is_also_told_by_its_minute() -> None:
    ids, y, X = series()
    taken = [f"Cam|2024:05:01 10:{i // LONG:02}:{i % LONG:02}" for i in range(len(ids))]
    catalog, found = closed([f"{'ab'[label]}/{i * 7919 % 1000}x.jpg" for i, label in enumerate(y)], y, X, taken)
    (suspected,) = gate.suspected(catalog, found, np.arange(len(ids)), seed=0)
    assert (suspected.why, suspected.pattern, suspected.groups) == ("the time they were taken at", "", 2 * SERIES)


@pytest.mark.parametrize("name", ["{label}/IMG_{i:04}.jpg", "{label}/{label}.{i}.jpg", "{label}/{i}.jpg"])
def test_names_that_only_count_or_tell_the_class_are_no_series(name: str) -> None:
    y = np.repeat([0, 1], 60)
    ids = [name.format(label="ab"[label], i=i) for i, label in enumerate(y)]
    n = np.arange(len(y))
    assert suspicions(ids, [""] * len(y), n, n, y) == ()


def test_what_is_kept_together_anyway_is_suspected_no_more() -> None:
    ids, y, _ = series()
    n, known = np.arange(len(y)), np.arange(len(y)) // LONG
    assert suspicions(ids, [""] * len(y), n, known, y) == ()
    assert len(suspicions(ids, [""] * len(y), n, n, y)) == 1


# ---------------------------------------------------------------- time and camera


def test_camera_and_time_are_read_from_exif(photo: object, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Model 3"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:01 10:11:12"
    assert inspect(photo(1, exif=exif.tobytes())).taken == "Maker Model 3|2024:05:01 10:11:12"
    assert inspect(photo(1, "PNG", exif=exif.tobytes())).taken == "Maker Model 3|2024:05:01 10:11:12"
    assert inspect(photo(1)).taken == ""
    exif.get_ifd(0x8769)[0x9003] = "0000:00:00 00:00:00"
    assert inspect(photo(1, exif=exif.tobytes())).taken == ""
