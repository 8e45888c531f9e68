import csv
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graftage.data import catalog as module
from graftage.data.catalog import Catalog, printable, require_learnable, scan, write_csv, write_ledger
from graftage.data.decode import Limits, decode
from graftage.data.sources import labelled
from graftage.errors import DataError, StoreError


def photo(seed: int, kind: str = "JPEG", size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def look(root: Path, **options: object) -> Catalog:
    return scan(labelled(root), workers=3, **options)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    truncated = photo(4)[:-200]
    return folder(
        tmp_path,
        {
            "a/1.jpg": photo(1),
            "a/2.jpg": photo(2, "PNG"),
            "a/cut.jpg": truncated,
            "a/empty.jpg": b"",
            "a/notes.txt": b"buy milk",
            "b/3.png": photo(3, "PNG", size=(7, 9)),
            "b/4.jpg": photo(5),
            "loose.jpg": photo(6),
        },
    )


def test_every_file_becomes_an_entry_with_what_became_of_it(photos: Path) -> None:
    catalog = look(photos)
    assert [(entry.id, entry.status, entry.reason.split(":")[0]) for entry in catalog.entries] == [
        ("a/1.jpg", "used", ""),
        ("a/2.jpg", "used", "PNG content in a .jpg name"),
        ("a/cut.jpg", "rejected", "truncated"),
        ("a/empty.jpg", "rejected", "empty file"),
        ("a/notes.txt", "rejected", "not an image"),
        ("b/3.png", "used", ""),
        ("b/4.jpg", "used", ""),
        ("loose.jpg", "rejected", "not in a class folder"),
    ]
    assert catalog.labels().tolist() == [0, 0, 0, 0, 0, 1, 1, -1]
    assert catalog.labels().dtype == np.int64
    assert catalog.usable == (0, 1, 5, 6)
    assert catalog.counts() == {"used": 4, "repaired": 0, "rejected": 4}
    assert [entry.index for entry in catalog.entries] == list(range(8))
    assert (catalog.root, catalog.classes) == (str(photos), ("a", "b"))


def test_sizes_are_upright_and_digests_are_of_the_bytes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    root = folder(tmp_path, {"a/1.jpg": photo(1, size=(40, 30), exif=exif), "a/bad.jpg": b"bad"})
    first, bad = look(root).entries
    assert (first.width, first.height) == (30, 40)
    assert first.digest == hashlib.sha256((root / "a/1.jpg").read_bytes()).hexdigest()
    assert (bad.width, bad.height, bad.digest) == (0, 0, hashlib.sha256(b"bad").hexdigest())


def test_a_truncated_picture_is_used_only_where_asked_and_said(photos: Path) -> None:
    entry = look(photos, repair=True).entries[2]
    assert (entry.status, entry.reason, entry.width) == ("repaired", "truncated", 40)


def test_limits_reach_the_file(photos: Path) -> None:
    assert look(photos, limits=Limits(max_pixels=100)).counts()["used"] == 1
    assert look(photos, limits=Limits(max_bytes=10)).entries[0].reason.startswith("too many bytes")


def test_only_files_with_a_suspicious_end_are_decoded(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def spy(data: bytes, **options: object) -> object:
        decoded.append(data)
        return decode(data, **options)

    monkeypatch.setattr(module, "decode", spy)
    look(photos)
    assert decoded == [(photos / "a/cut.jpg").read_bytes()]


def test_entries_keep_the_order_of_the_sources_whatever_finishes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path, {f"a/{number}.jpg": photo(number) for number in range(6)})
    released = threading.Event()
    read = module.read

    def late_first(path: Path, *, limits: Limits) -> bytes:
        if path.name == "0.jpg":
            assert released.wait(10)
        if path.name == "5.jpg":
            released.set()
        return read(path, limits=limits)

    monkeypatch.setattr(module, "read", late_first)
    assert [entry.id for entry in look(root).entries] == [f"a/{number}.jpg" for number in range(6)]


def test_progress_counts_every_file(photos: Path) -> None:
    seen: list[tuple[int, int]] = []
    look(photos, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in range(1, 9)]


def test_an_interrupt_does_not_wait_for_the_files_still_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path, {f"a/{number}.jpg": b"x" for number in range(200)})
    opened: list[Path] = []
    gate, over = threading.Semaphore(5), threading.Event()

    def slow(path: Path, *, limits: Limits) -> bytes:
        if not gate.acquire(blocking=False) and over.wait(60):
            time.sleep(0.1)  # the interrupt is on its way
        opened.append(path)
        return b"x"

    def interrupt(done: int, total: int) -> None:
        over.set()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "read", slow)
    with pytest.raises(KeyboardInterrupt):
        look(root, progress=interrupt)
    assert len(opened) < 100


# Changing a catalog


def test_a_catalog_is_changed_by_making_a_new_one(photos: Path) -> None:
    catalog = look(photos)
    changed = catalog.reject(0, "corrupt: JPEG")
    assert (changed.entries[0].status, changed.entries[0].reason) == ("rejected", "corrupt: JPEG")
    assert changed.usable == (1, 5, 6)
    assert catalog.entries[0].status == "used"
    grouped = catalog.with_entries({5: replace(catalog.entries[5], group=3)})
    assert [entry.group for entry in grouped.entries] == [-1] * 5 + [3, -1, -1]


# Is there something to learn?


def test_two_classes_of_two_usable_pictures_are_enough(photos: Path) -> None:
    require_learnable(look(photos))


def test_one_class_is_nothing_to_learn(tmp_path: Path) -> None:
    root = folder(tmp_path, {"only/1.jpg": photo(1), "only/2.jpg": photo(2)})
    with pytest.raises(DataError, match=r"holds one class only \('only'\): .*at least two class folders"):
        require_learnable(look(root))


def test_poor_classes_are_named_with_their_counts_and_what_was_rejected(photos: Path) -> None:
    catalog = look(photos).reject(0, "corrupt")
    with pytest.raises(DataError) as caught:
        require_learnable(catalog)
    message = str(caught.value)
    assert message.startswith(f"1 of 2 classes in {photos} have fewer than 2 usable training pictures.")
    assert "'a': 1 usable, rejected: a/1.jpg (corrupt); a/cut.jpg (truncated" in message
    assert "a/empty.jpg (empty file)" in message
    assert "'b'" not in message


def test_held_out_pictures_are_not_there_to_learn_from(tmp_path: Path) -> None:
    names = ["train/a/1", "train/a/2", "train/b/3", "test/b/4", "test/b/5"]
    root = folder(tmp_path, {f"{name}.jpg": photo(index) for index, name in enumerate(names)})
    with pytest.raises(DataError, match="'b': 1 usable"):
        require_learnable(look(root))


def test_pictures_of_classes_unknown_to_train_are_rejected(tmp_path: Path) -> None:
    root = folder(tmp_path, {"train/a/1.jpg": photo(1), "test/b/2.jpg": photo(2)})
    entry = look(root).entries[1]
    assert (entry.status, entry.reason, entry.label, entry.split) == ("rejected", "class not in train", -1, "test")


# The ledger


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_ledger_has_one_row_per_input(photos: Path, tmp_path: Path) -> None:
    catalog = look(photos)
    write_ledger(catalog, tmp_path / "ledger.csv")
    rows = read_csv(tmp_path / "ledger.csv")
    assert ",".join(rows[0]) == "id,path,status,reason,label,split,group,width,height,digest"
    assert [row["id"] for row in rows] == [entry.id for entry in catalog.entries]
    assert [row["label"] for row in rows] == ["a"] * 5 + ["b"] * 2 + [""]
    assert (rows[5]["width"], rows[5]["height"], rows[5]["group"]) == ("7", "9", "-1")
    assert rows[0]["path"] == str(photos / "a/1.jpg")


@pytest.mark.parametrize("name", ['猫,\n"狗"', "a\rb", "a\r\nb", " =1+1", "é"])
def test_strange_names_survive_the_ledger(tmp_path: Path, name: str) -> None:
    root = folder(tmp_path, {f"{name}/1.jpg": photo(1)})
    write_ledger(look(root), tmp_path / "ledger.csv")
    (row,) = read_csv(tmp_path / "ledger.csv")
    assert (row["label"], row["id"]) == (name, f"{name}/1.jpg")


def test_undecodable_bytes_are_written_as_escapes(tmp_path: Path) -> None:
    entry = look(folder(tmp_path, {"a/1.jpg": photo(1)})).entries[0]
    catalog = Catalog("", ("a",), (replace(entry, id=os.fsdecode(b"a/\xff.jpg")),))
    write_ledger(catalog, tmp_path / "ledger.csv")
    assert read_csv(tmp_path / "ledger.csv")[0]["id"] == "a/\\xff.jpg"


@pytest.mark.parametrize(("text", "shown"), [("a\udcffb", "a\\xffb"), ("\ud800", "\\ud800"), ("猫\n", "猫\n")])
def test_printable_text_is_utf8(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(text).encode("utf-8")


@pytest.mark.parametrize(
    ("fault", "raised"),
    [(OSError(28, "No space left on device"), StoreError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, fault: BaseException, raised: type[BaseException]
) -> None:
    path = tmp_path / "table.csv"
    write_csv(path, ["x"], [["old"]])

    def rows() -> Iterator[list[str]]:
        yield ["new"]
        raise fault

    with pytest.raises(raised):
        write_csv(path, ["x"], rows())
    assert [row["x"] for row in read_csv(path)] == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*table\.csv: No such file"):
        write_csv(tmp_path / "gone" / "table.csv", ["x"], [])
