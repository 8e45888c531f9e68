import hashlib
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graftage.data.decode import Limits, Picture, decode
from graftage.errors import PictureError
from graftage.features import extract as module
from graftage.features.backbone import find
from graftage.features.engine import Forward, open_forward
from graftage.features.extract import Extracted, Job, extract, extract_looks, see, store_key, stream
from graftage.features.facts import Backbone
from graftage.features.looks import look_of
from graftage.features.preprocess import FITS, Preprocess
from graftage.features.store import FeatureStore

Photo = Callable[..., bytes]


@pytest.fixture(scope="module")
def backbone(weights_file: Callable[[str], Path]) -> Backbone:
    found = find(str(weights_file("test_resnet")))
    return replace(found, preprocess=replace(found.preprocess, size=64))


@pytest.fixture(scope="module")
def forward(backbone: Backbone) -> Forward:
    return open_forward(backbone, backbone.preprocess, device="cpu", precision="float32")


@pytest.fixture
def pictures(tmp_path: Path, photo: Photo) -> list[Path]:
    """Twelve pictures of many sizes and kinds, one of them gray, one turned by EXIF."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    gray = BytesIO()
    Image.open(BytesIO(photo(50))).convert("L").save(gray, "PNG")
    contents = [photo(i, "PNG" if i % 3 else "JPEG", size=(40 + 30 * i, 200 - 10 * i)) for i in range(10)]
    for i, content in enumerate([*contents, gray.getvalue(), photo(11, exif=exif)]):
        (folder / f"{i}.img").write_bytes(content)
    return [folder / f"{i}.img" for i in range(12)]


def digests_of(paths: Sequence[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


@pytest.fixture
def run(forward: Forward, backbone: Backbone, tmp_path: Path) -> Callable[..., Extracted]:
    """`extract` with a store of this test's own; digests as they are now unless told."""

    def go(paths: Sequence[Path], **options: object) -> Extracted:
        usual = {"forward": forward, "preprocesses": [backbone.preprocess], "folder": tmp_path / "store"}
        digests = options.pop("digests", None) or digests_of(paths)
        return extract(paths, digests, **{**usual, **options})

    return go


def by_hand(path: Path, forward: Forward, recipe: Preprocess) -> np.ndarray:
    pixels = decode(path.read_bytes(), cover=recipe.cover).pixels
    return forward(recipe.square(pixels)[None])[0]


def slow(forward: Forward, seconds: float = 0.02) -> Forward:
    def run(squares: np.ndarray) -> np.ndarray:
        time.sleep(seconds)
        return forward(squares)

    return replace(forward, run=run)


def workers_alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("graftage_")]


# Right answers, in order


def test_every_picture_gets_its_own_features_in_the_order_asked(
    run: Callable, pictures: list[Path], forward: Forward, backbone: Backbone
) -> None:
    shuffled = [pictures[i] for i in (3, 11, 0, 7, 1, 10, 2, 9, 4, 8, 5, 6)]
    found = run(shuffled)
    wanted = np.stack([by_hand(path, forward, backbone.preprocess) for path in shuffled])
    np.testing.assert_array_equal(found.features[0], wanted)
    assert len(np.unique(wanted, axis=0)) == 12
    assert [seen.job.path for seen in found.seen] == shuffled
    assert [seen.job.index for seen in found.seen] == list(range(12))
    assert (found.computed, found.failed) == (12, ())


def test_one_picture_from_its_bytes_gives_the_same(
    run: Callable, pictures: list[Path], forward: Forward, backbone: Backbone
) -> None:
    found = run(pictures)
    for path, row in zip(pictures, found.features[0], strict=True):
        vector, picture = see(path.read_bytes(), forward=forward, preprocess=backbone.preprocess)
        np.testing.assert_array_equal(vector, row)
    assert picture.notes == ("rotated by EXIF (6)",)
    with pytest.raises(PictureError, match="not an image"):
        see(b"buy milk", forward=forward, preprocess=backbone.preprocess)


def test_three_preprocessings_at_once_are_one_at_a_time(
    run: Callable, pictures: list[Path], backbone: Backbone, tmp_path: Path
) -> None:
    recipes = [backbone.preprocess.with_fit(fit) for fit in FITS]
    together = run(pictures, preprocesses=recipes)
    assert together.computed == 36
    for recipe, rows in zip(recipes, together.features, strict=True):
        single = run(pictures, preprocesses=[recipe], folder=tmp_path / recipe.fit)
        np.testing.assert_array_equal(rows, single.features[0])
    assert not np.array_equal(together.features[0], together.features[1])


def test_preprocessings_of_different_decode_scale_are_our_mistake(
    run: Callable, pictures: list[Path], backbone: Backbone
) -> None:
    with pytest.raises(AssertionError, match="at one scale"):
        run(pictures, preprocesses=[backbone.preprocess, replace(backbone.preprocess, crop_pct=0.5)])


def test_the_number_of_workers_and_the_batch_do_not_matter(
    run: Callable, pictures: list[Path], forward: Forward, backbone: Backbone, tmp_path: Path
) -> None:
    recipes = [backbone.preprocess.with_fit(fit) for fit in FITS]
    one = run(pictures, preprocesses=recipes, workers=1, folder=tmp_path / "1")
    three = run(pictures, preprocesses=recipes, workers=3, folder=tmp_path / "3")
    batches = run(pictures, preprocesses=recipes, forward=replace(forward, batch=5), folder=tmp_path / "5")
    for a, b, c in zip(one.features, three.features, batches.features, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_no_pictures(run: Callable) -> None:
    found = run([])
    assert (found.features[0].shape[0], found.seen, found.computed) == (0, (), 0)


def test_a_picture_without_a_digest_is_our_mistake(run: Callable, pictures: list[Path]) -> None:
    with pytest.raises(AssertionError, match="without a digest"):
        run(pictures[:2], digests=["", digests_of(pictures)[1]])


# What is not computed again


def test_a_second_run_computes_nothing_and_tells_the_same(
    run: Callable, pictures: list[Path], forward: Forward
) -> None:
    first = run(pictures)
    never = replace(forward, run=lambda _: pytest.fail("nothing is left to compute"))
    second = run(pictures, forward=never)
    assert second.computed == 0
    np.testing.assert_array_equal(first.features[0], second.features[0])
    assert [seen.notes for seen in second.seen] == [seen.notes for seen in first.seen]
    assert second.seen[11].notes == "rotated by EXIF (6)"


def test_one_new_picture_computes_one(run: Callable, pictures: list[Path]) -> None:
    run(pictures[:7])
    assert run(pictures[:8]).computed == 1


def test_a_renamed_file_computes_nothing_a_changed_one_is_computed(
    run: Callable, pictures: list[Path], photo: Photo
) -> None:
    run(pictures)
    renamed = pictures[0].rename(pictures[0].with_name("elsewhere.jpg"))
    found = run([renamed, *pictures[1:]])
    assert (found.computed, found.seen[0].job.path) == (0, renamed)
    pictures[1].write_bytes(photo(99))
    assert run(pictures[1:]).computed == 1


def test_equal_files_are_computed_once(run: Callable, pictures: list[Path]) -> None:
    twin = pictures[0].with_name("twin.jpg")
    twin.write_bytes(pictures[0].read_bytes())
    calls: list[tuple[int, int]] = []
    found = run([pictures[0], pictures[1], twin], progress=lambda *c: calls.append(c))
    assert found.computed == 2
    np.testing.assert_array_equal(found.features[0][0], found.features[0][2])
    assert [seen.job.path for seen in found.seen] == [pictures[0], pictures[1], twin]
    assert calls[-1] == (2, 2)


def test_only_the_missing_preprocessing_is_computed(run: Callable, pictures: list[Path], backbone: Backbone) -> None:
    crop, pad = backbone.preprocess.with_fit("crop"), backbone.preprocess.with_fit("pad")
    run(pictures[:4], preprocesses=[crop])
    run(pictures[:2], preprocesses=[pad])
    found = run(pictures[:6], preprocesses=[crop, pad])
    assert found.computed == 2 + 4
    assert np.isfinite(found.features).all()


def test_features_of_one_network_are_not_given_out_for_another(
    run: Callable, pictures: list[Path], forward: Forward, backbone: Backbone
) -> None:
    run(pictures[:3])
    assert run(pictures[:3], forward=replace(forward, key="another")).computed == 3
    assert run(pictures[:3], preprocesses=[replace(backbone.preprocess, interpolation="lanczos")]).computed == 3


# Bad pictures among good ones


def rejected(found: Extracted) -> dict[int, str]:
    return {i: found.seen[i].reason.split(":")[0] for i in found.failed}


def test_bad_pictures_are_said_and_the_good_ones_are_not_hurt(
    run: Callable, pictures: list[Path], forward: Forward, backbone: Backbone, photo: Photo
) -> None:
    digests = digests_of(pictures)
    whole = photo(1, size=(120, 90), quality=95)
    for i, content in ((0, whole[: len(whole) // 2]), (2, b""), (4, b"buy milk")):
        pictures[i].write_bytes(content)
        digests[i] = hashlib.sha256(content).hexdigest()
    pictures[6].write_bytes(photo(77))  # after it was looked at
    pictures[8].unlink()
    found = run(pictures, digests=digests)
    assert rejected(found) == {
        0: "truncated",
        2: "empty file",
        4: "not an image",
        6: "changed while running",
        8: "missing",
    }
    assert found.computed == 7
    for i, path in enumerate(pictures):
        if i in found.failed:
            assert np.isnan(found.features[0][i]).all()
        else:
            np.testing.assert_array_equal(found.features[0][i], by_hand(path, forward, backbone.preprocess))


def test_a_picture_rejected_in_one_preprocessing_has_no_features_in_any(
    run: Callable, pictures: list[Path], backbone: Backbone, photo: Photo
) -> None:
    crop, pad = backbone.preprocess.with_fit("crop"), backbone.preprocess.with_fit("pad")
    digests = digests_of(pictures)
    run(pictures, preprocesses=[crop])
    pictures[1].write_bytes(photo(77))
    found = run(pictures, digests=digests, preprocesses=[crop, pad])
    assert rejected(found) == {1: "changed while running"}
    for features in found.features:
        assert np.flatnonzero(np.isnan(features).any(1)).tolist() == [1]


def test_limits_are_kept(run: Callable, pictures: list[Path]) -> None:
    assert rejected(run(pictures[:3], limits=Limits(max_pixels=70 * 190))) == {2: "too many pixels"}


def test_an_answer_that_is_not_finite_is_rejected_and_not_stored(
    run: Callable, pictures: list[Path], forward: Forward
) -> None:
    broken = replace(forward, run=lambda squares: np.full_like(forward(squares), np.inf))
    found = run(pictures[:2], forward=broken)
    assert set(rejected(found).values()) == {"the network's answer is not finite"}
    assert run(pictures[:2]).computed == 2


@pytest.fixture
def damaged(tmp_path: Path, photo: Photo) -> Path:
    whole = photo(5, size=(200, 150), quality=95)
    (tmp_path / "damaged.jpg").write_bytes(whole[: int(len(whole) * 0.8)])
    return tmp_path / "damaged.jpg"


def test_damaged_pictures_are_used_only_where_asked(run: Callable, damaged: Path, pictures: list[Path]) -> None:
    both = [damaged, pictures[0]]
    assert rejected(run(both)) == {0: "truncated"}
    repaired = run(both, repair=True)
    assert (repaired.failed, repaired.computed) == ((), 1)
    assert [seen.repaired for seen in repaired.seen] == [True, False]
    assert "the missing part filled" in repaired.seen[0].notes
    assert rejected(run(both)) == {0: "truncated"}  # though the store holds it now
    again = run(both, repair=True)
    assert (again.computed, again.seen[0].repaired) == (0, True)
    np.testing.assert_array_equal(again.features[0], repaired.features[0])


# Interrupts and progress


def test_progress_counts_up_to_all_in_the_callers_thread(run: Callable, pictures: list[Path], forward: Forward) -> None:
    calls: list[tuple[int, int]] = []
    threads: set[int] = set()

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        threads.add(threading.get_ident())

    run(pictures[:3])
    run(pictures, progress=progress, forward=slow(forward, 0.05))
    assert calls[0] == (3, 12)
    assert calls[-1] == (12, 12)
    assert calls == sorted(calls)
    assert len(calls) > 2
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("fault", [KeyboardInterrupt, ValueError])
def test_an_interrupt_keeps_what_was_done_and_leaves_no_worker(
    fault: type[BaseException], run: Callable, pictures: list[Path], forward: Forward
) -> None:
    reached: list[int] = []

    def progress(done: int, total: int) -> None:
        reached.append(done)
        if done >= 4:
            raise fault

    with pytest.raises(fault) as caught:
        run(pictures, progress=progress, forward=slow(forward, 0.06))
    assert caught.value is not None  # the traceback, which holds on to every frame, is still alive
    assert workers_alive() == []
    assert 4 <= reached[-1] < 12
    assert run(pictures).computed == 12 - reached[-1]


def test_a_fault_in_the_network_comes_out_and_keeps_what_was_done(
    run: Callable, pictures: list[Path], forward: Forward
) -> None:
    left = itertools.count()

    def failing(squares: np.ndarray) -> np.ndarray:
        if next(left) == 5:
            raise ValueError("the network gave up")
        return forward(squares)

    with pytest.raises(ValueError, match="gave up"):
        run(pictures, forward=replace(forward, run=failing), workers=1)
    assert run(pictures).computed == 7


def test_features_are_stored_batch_by_batch(
    run: Callable, pictures: list[Path], forward: Forward, backbone: Backbone, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What another process sees while this one runs: after so many pictures, all but the last few."""
    monkeypatch.setattr(module, "_STORE_EVERY", 4)
    kept: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        with FeatureStore(store_key(forward, backbone.preprocess), width=1, folder=tmp_path / "store") as store:
            kept.append((done, len(store)))

    run(pictures, forward=slow(forward, 0.06), progress=progress)
    assert kept[-1] == (12, 12)
    assert all(done - stored < 4 for done, stored in kept)


# The stream


def jobs_for(paths: Sequence[Path], taken: list[int]) -> Iterator[Job]:
    for i in itertools.count():
        taken.append(i)
        yield Job(i, paths[i % len(paths)])


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (3, 1), (2, 5)])
def test_an_endless_stream_takes_only_a_few_jobs_ahead(
    workers: int, batch: int, pictures: list[Path], forward: Forward, backbone: Backbone
) -> None:
    taken: list[int] = []
    answers = stream(
        jobs_for(pictures, taken),
        forward=replace(forward, batch=batch),
        preprocesses=[backbone.preprocess],
        workers=workers,
    )
    for expected, seen in enumerate(itertools.islice(answers, 60)):
        assert seen.job.index == expected
        assert len(taken) - expected <= (4 * workers + 1) * batch
    answers.close()
    assert workers_alive() == []


def test_every_job_is_answered_once_in_order(pictures: list[Path], forward: Forward, backbone: Backbone) -> None:
    """Whatever order the workers finish in: the first pictures are made the slowest."""
    left = itertools.count(12, -1)

    def uneven(squares: np.ndarray) -> np.ndarray:
        time.sleep(0.004 * max(0, next(left)))
        return forward(squares)

    jobs = [Job(100 - i, path) for i, path in enumerate(pictures)]
    found = stream(jobs, forward=replace(forward, run=uneven), preprocesses=[backbone.preprocess], workers=4)
    assert [seen.job for seen in found] == jobs


def test_a_job_says_which_preprocessings_it_wants(pictures: list[Path], forward: Forward, backbone: Backbone) -> None:
    recipes = [backbone.preprocess.with_fit(fit) for fit in FITS]
    jobs = [Job(0, pictures[1], wanted=(2, 0)), Job(1, pictures[2], wanted=()), Job(2, pictures[3], wanted=(1,))]
    first, second, third = stream(jobs, forward=replace(forward, batch=2), preprocesses=recipes)
    np.testing.assert_array_equal(first.vectors[0], by_hand(pictures[1], forward, recipes[2]))
    np.testing.assert_array_equal(first.vectors[1], by_hand(pictures[1], forward, recipes[0]))
    assert second.vectors == ()
    np.testing.assert_array_equal(third.vectors[0], by_hand(pictures[3], forward, recipes[1]))


def test_a_job_without_a_digest_takes_any_bytes(pictures: list[Path], forward: Forward, backbone: Backbone) -> None:
    jobs = [Job(0, pictures[0]), Job(1, pictures[0], digest="0" * 64), Job(2, Path("/no/such/file"))]
    found = list(stream(jobs, forward=forward, preprocesses=[backbone.preprocess]))
    assert [seen.reason.split(":")[0] for seen in found] == ["", "changed while running", "missing"]


def test_two_jobs_may_carry_the_same_number(pictures: list[Path], forward: Forward, backbone: Backbone) -> None:
    jobs = [Job(0, pictures[0]), Job(0, pictures[1])]
    found = list(stream(jobs, forward=replace(forward, batch=4), preprocesses=[backbone.preprocess]))
    for seen, path in zip(found, pictures, strict=False):
        assert len(seen.vectors) == 1
        np.testing.assert_array_equal(seen.vectors[0], by_hand(path, forward, backbone.preprocess))


def test_decoded_pictures_are_not_held_while_a_batch_fills(
    pictures: list[Path], forward: Forward, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[weakref.ref] = []
    alive: list[int] = []

    def remembered(*arguments: object, **options: object) -> Picture:
        picture = decode(*arguments, **options)
        decoded.append(weakref.ref(picture))
        return picture

    def run(squares: np.ndarray) -> np.ndarray:
        alive.append(sum(picture() is not None for picture in decoded))
        return forward(squares)

    monkeypatch.setattr(module, "decode", remembered)
    jobs = [Job(i, path) for i, path in enumerate(pictures)]
    found = stream(jobs, forward=replace(forward, run=run, batch=6), preprocesses=[backbone.preprocess], workers=1)
    assert len(list(found)) == len(decoded) == 12
    assert alive == [0, 0]


# What pictures look like


def test_looks_come_from_the_same_decode_and_are_those_of_the_picture(
    run: Callable, pictures: list[Path], backbone: Backbone
) -> None:
    found = run(pictures, looks=True)
    assert found.computed == 24
    assert found.looks is not None
    cover = backbone.preprocess.cover
    wanted = [look_of(decode(path.read_bytes(), cover=cover)) for path in pictures]
    np.testing.assert_array_equal(found.looks, wanted)
    np.testing.assert_array_equal(found.features[0], run(pictures).features[0])
    assert run(pictures).looks is None


def test_where_features_are_kept_only_the_looks_are_made(run: Callable, pictures: list[Path]) -> None:
    run(pictures)
    assert run(pictures, looks=True).computed == 12
    again = run(pictures, looks=True)
    assert (again.computed, again.failed) == (0, ())


def test_looks_alone_never_run_the_network(
    forward: Forward, backbone: Backbone, pictures: list[Path], tmp_path: Path
) -> None:
    def refuse(squares: np.ndarray) -> np.ndarray:
        raise AssertionError(squares.shape)

    asked = {"preprocess": backbone.preprocess, "folder": tmp_path / "store"}
    found = extract_looks(pictures, digests_of(pictures), forward=replace(forward, run=refuse), **asked)
    assert (found.features, found.computed) == ((), 12)
    assert found.looks is not None
    pictures[0].write_bytes(b"")
    spoilt = extract_looks(pictures[:2], digests_of(pictures[:2]), forward=forward, **asked)
    assert spoilt.failed == (0,)
    assert not spoilt.looks[0].any()
