import errno
import hashlib
import json
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graftage.errors import BundleError
from graftage.serve import tensorfile
from graftage.serve.tensorfile import DTYPES, Damaged, check_fields, dump_json, encode_header, in_order, parse_json

TEXT = {"format": 1, "name": "猫", "score": 0.1}
TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.scalar": np.array(7, dtype=np.int64),
    "c": np.array([1, 2, 255], dtype=np.uint8),
    "d.empty": np.zeros((0, 5), dtype=np.float32),
}


def save(path: Path, text=TEXT, tensors=TENSORS) -> Path:
    stored = in_order(tensors)
    tensorfile.write(path, encode_header(text, stored), stored)
    return path


def read(path: Path):
    with tensorfile.naming(path), tensorfile.opened(path) as file:
        header = tensorfile.read_header(file)
        return header.text, tensorfile.read_tensors(file, header)


def compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def forge(path: Path, claims: object, data: bytes = b"", *, text: str = compact(TEXT), **metadata: object) -> Path:
    """A file made without our writer, correctly signed unless `metadata` says otherwise."""
    signed = hashlib.sha256(f"[{text},{compact(claims)}]".encode() + data).hexdigest()
    header = compact({"__metadata__": {"graftage": text, "sha256": signed} | metadata} | claims).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def entry(shape: object, start: object, stop: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def assert_same(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].shape == tensor.shape
        assert found[name].dtype == tensor.dtype.newbyteorder("<")
        assert found[name].tobytes() == tensor.astype(tensor.dtype.newbyteorder("<")).tobytes()


# ---------------------------------------------------------------- round trip


def test_text_and_tensors_come_back(tmp_path):
    text, tensors = read(save(tmp_path / "m"))
    assert text == TEXT
    assert_same(tensors, TENSORS)


arrays = st.sampled_from(list(DTYPES.values())).flatmap(
    lambda dtype: hnp.arrays(
        st.sampled_from([dtype, dtype.newbyteorder(">")]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)
    )
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")).filter(lambda name: name != "__metadata__"), arrays))
@settings(max_examples=60, deadline=None)
def test_every_type_shape_and_bit_comes_back(tmp_path_factory, tensors):
    path = save(tmp_path_factory.mktemp("t") / "m", tensors=tensors)
    assert_same(read(path)[1], tensors)


def test_arrays_that_are_views_are_stored_as_they_look(tmp_path):
    whole = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert_same(read(save(tmp_path / "m", tensors={"v": whole.T[::2]}))[1], {"v": whole.T[::2]})


def test_the_safetensors_package_reads_the_same_tensors(tmp_path):
    assert_same(safetensors.numpy.load_file(save(tmp_path / "m")), TENSORS)


def test_the_same_content_gives_the_same_bytes_whatever_the_order(tmp_path):
    first = save(tmp_path / "1").read_bytes()
    backwards = dict(reversed(TEXT.items())), dict(reversed(TENSORS.items()))
    assert save(tmp_path / "2", *backwards).read_bytes() == first


def test_every_tensor_lies_aligned_to_its_type(tmp_path):
    path = save(tmp_path / "m")
    with path.open("rb") as file:
        header = tensorfile.read_header(file)
        first = file.tell()
    for place in tensorfile.layout(header):
        assert (first + place.start) % DTYPES[place.dtype].itemsize == 0


def test_what_is_read_owns_its_memory(tmp_path):
    path = save(tmp_path / "m")
    _, tensors = read(path)
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert_same(tensors, TENSORS)
    assert all(tensor.flags.writeable for tensor in tensors.values())


@pytest.mark.parametrize("tensor", [np.array(v) for v in ("x", True, 1j, None, np.uint16(0x3F80))], ids=str)
def test_types_outside_the_format_are_refused(tensor):
    with pytest.raises(BundleError, match=r"tensor 'odd' has type .* convert it to one of float64, float32"):
        in_order({"odd": tensor})


# ---------------------------------------------------------------- the disk


def test_writing_replaces_the_old_file_and_leaves_nothing_else(tmp_path):
    (tmp_path / "m").write_text("old")
    save(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert read(tmp_path / "m")[0] == TEXT


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_or_an_interrupt_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, fault, step):
    def fail(*_: object) -> None:
        raise fault

    (tmp_path / "m").write_text("old")
    monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    with pytest.raises(type(fault)):
        save(tmp_path / "m")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("m", "old")]


def test_the_file_is_complete_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda number: seen.append((os.fstat(number).st_size, (tmp_path / "m").exists())))
    save(tmp_path / "m")
    assert seen == [((tmp_path / "m").stat().st_size, False)]


# ---------------------------------------------------------------- hostile files


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(BundleError, match="none: there is no such file"):
        read(tmp_path / "none")
    with pytest.raises(BundleError, match=r"is a folder: name the file in it, usually model\.safetensors"):
        read(tmp_path)
    with pytest.raises(BundleError, match="there is no such file"):
        read(Path("a\0b"))


@pytest.mark.skipif(os.name != "posix", reason="named pipes are files only there")
def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BundleError, match="there is no such file"):
        read(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x02\0\0", "not a safetensors file"),
        (b"\x02\0\0\0\0\0\0\0", "not a safetensors file"),
        (b"\0" * 8 + b"{}", "not a safetensors file"),
        (b"\x01" + b"\0" * 7 + b"{", "not a safetensors file"),
        (b"\xff\xd8\xff\xe0 a JPEG picture", "not a safetensors file"),
        (b"\x03\0\0\0\0\0\0\0{}", r"a header of 3 bytes in a file of 10; it may be half a copy"),
        (b"\xff" * 8 + b"{}", r"header of 18,446,744,073,709,551,615 bytes, but 100,000,000 are allowed"),
        (b"\x02\0\0\0\0\0\0\0{]", "its header is not valid JSON"),
        (b"\x03\0\0\0\0\0\0\0{\xff}", "its header is not valid JSON: 'utf-8' codec"),
        (b"\x02\0\0\0\0\0\0\0{}", "without graftage's own header"),
        (b"\x06\0\0\0\0\0\0\0{}   x", "its header is not valid JSON"),
    ],
)
def test_what_is_no_bundle_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(BundleError, match=f"/m: .*{message}"):
        read(tmp_path / "m")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_are_never_loaded(tmp_path, protocol):
    (tmp_path / "m").write_bytes(pickle.dumps({"weights": [1.0] * 100}, protocol))
    with pytest.raises(BundleError, match=r"a pickle.* can run code, so they are never loaded"):
        read(tmp_path / "m")


def test_a_torch_archive_counts_as_a_pickle(tmp_path):
    (tmp_path / "m.pth").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    with pytest.raises(BundleError, match=r"a pickle, as torch\.save makes them"):
        read(tmp_path / "m.pth")


def test_a_header_as_long_as_a_pickle_mark_is_no_pickle(tmp_path):
    # 640 = 0x0280 is written \x80\x02, which is also how a pickle of protocol 2 begins
    header = encode_header(TEXT, {})
    (tmp_path / "m").write_bytes((640).to_bytes(8, "little") + header.ljust(640))
    assert read(tmp_path / "m")[0] == TEXT


def test_plain_safetensors_are_not_ours(tmp_path):
    safetensors.numpy.save_file({"w": np.zeros(3)}, tmp_path / "m", metadata={"format": "pt"})
    with pytest.raises(
        BundleError, match=r"is not a graftage model \(a safetensors file without graftage's own header"
    ):
        read(tmp_path / "m")


GOOD = entry([2], 0, 8)


def test_the_forger_of_these_tests_can_make_a_valid_file(tmp_path):
    assert_same(read(forge(tmp_path / "m", {"x": GOOD}, b"\0" * 8))[1], {"x": np.zeros(2, np.float32)})


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"x": []}, "tensor 'x' is no JSON object"),
        ({"x": {"dtype": "F32", "shape": [2]}}, "tensor 'x' lacks data_offsets"),
        ({"x": GOOD | {"device": "cpu"}}, "newer graftage.*tensor 'x' has the unknown field 'device'"),
        ({"x": entry([2], 0, 8, dtype=7)}, "tensor 'x': dtype is of type int"),
        ({"x": entry([2], 0, 8, dtype="BOOL")}, "has the type 'BOOL', not one of F64, F32"),
        ({"x": entry([4], 0, 8, dtype="BF16")}, "has the type 'BF16', not one of F64, F32"),
        ({"x": entry([2], 0, 8, dtype="")}, "has the type ''"),
        ({"x": entry(2, 0, 8)}, "shape is of type int"),
        ({"x": entry([-2], 0, 8)}, "no list of whole numbers"),
        ({"x": entry([2.0], 0, 8)}, "no list of whole numbers"),
        ({"x": entry([2, True], 0, 8)}, "no list of whole numbers"),
        ({"x": entry(["2"], 0, 8)}, "no list of whole numbers"),
        ({"x": entry([2], False, 8)}, "no list of whole numbers"),
        ({"x": GOOD | {"data_offsets": [0, 8, 8]}}, "no list of whole numbers"),
        ({"x": GOOD | {"data_offsets": []}}, "no list of whole numbers"),
        ({"x": entry([2**40], 0, 2**42)}, "lies outside the file"),
        ({"x": entry([2], 0, 10**4000)}, "lies outside the file"),
        ({"x": entry([2], 8, 0)}, "lies outside the file"),
        ({"x": entry([0, 2**62], 0, 0)}, "impossible shape"),
        ({"x": entry([2**62, 2**62, 0], 0, 0)}, "impossible shape"),
        ({"x": entry([1] * 33, 0, 4)}, "impossible shape"),
        ({"x": entry([3], 0, 8)}, "does not fit its 8 bytes"),
        ({"x": entry([2**62], 0, 8)}, "impossible shape"),
        ({"x": entry([1], 0, 4)}, "tensors take 4 bytes, but the file has 8"),
        ({"x": entry([1], 4, 8)}, "begins at byte 4, the one before ends at 0"),
        ({"x": entry([1], 0, 4), "y": entry([1], 0, 4)}, "'y' begins at byte 0, the one before ends at 4"),
        ({"x": GOOD, "y": entry([1], 4, 8)}, "'y' begins at byte 4, the one before ends at 8"),
        ({}, "tensors take 0 bytes, but the file has 8"),
    ],
)
def test_claims_that_do_not_hold_are_refused(tmp_path, claims, message):
    with pytest.raises(BundleError, match=message):
        read(forge(tmp_path / "m", claims, b"\0" * 8))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"graftage": 3}, "graftage's own header is no text"),
        ({"graftage": "[]"}, "graftage's own header is no JSON object"),
        ({"graftage": "{"}, "graftage's own header is not valid JSON"),
        ({"sha256": 3}, "sha256 is of type int"),
        ({"sha256": "00"}, "does not have the checksum"),
        ({"more": "x"}, "newer graftage.*unknown field 'more'"),
    ],
)
def test_metadata_must_be_ours(tmp_path, metadata, message):
    with pytest.raises(BundleError, match=message):
        read(forge(tmp_path / "m", {"x": GOOD}, b"\0" * 8, **metadata))


def test_metadata_that_is_no_object_is_foreign(tmp_path):
    header = b'{"__metadata__":[]}'
    (tmp_path / "m").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(BundleError, match="without graftage's own header"):
        read(tmp_path / "m")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":"\\ud800"}',
        b'{"\\udfff":1}',
        b'{"a":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"[" * 1_000_000,
        b'{"a":1} {"b":2}',
        b"",
    ],
    ids=lambda raw: ascii(raw[:20]),
)
def test_json_is_read_strictly(raw):
    with pytest.raises(Damaged, match="the text is not valid JSON"):
        parse_json(raw, "the text")


def test_honest_json_with_escapes_is_fine():
    assert parse_json(b'{"a":"\\ud83d\\udc31 \\u732b \\\\ud800"}', "") == {"a": "🐱 猫 \\ud800"}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(json_values)
@settings(max_examples=100, deadline=None)
def test_json_comes_back_and_repeats_itself(value):
    text = dump_json(value)
    assert parse_json(text.encode(), "") == value
    assert dump_json(parse_json(text.encode(), "")) == text


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object(), np.float32(1), b"x", {1: 2, "a": 3}])
def test_values_unknown_to_json_are_refused(value):
    with pytest.raises(BundleError, match="cannot be written as JSON"):
        dump_json({"a": value})


def test_invalid_unicode_is_refused_and_shown():
    with pytest.raises(BundleError, match=r"owl\\udce9' is no valid Unicode"):
        dump_json({"name": "owl\udce9"})


def test_a_bool_does_not_pass_for_a_whole_number():
    assert check_fields({"n": 1}, {"n": int}, "it") == {"n": 1}
    with pytest.raises(BundleError, match="it: n is of type bool"):
        check_fields({"n": True}, {"n": int}, "it")


def test_long_hostile_names_do_not_fill_the_message(tmp_path):
    with pytest.raises(BundleError) as caught:
        read(forge(tmp_path / "m", {"x" * 100_000: {}}))
    assert len(str(caught.value)) < 500


def test_a_header_too_long_to_read_back_is_not_written(monkeypatch):
    monkeypatch.setattr(tensorfile, "MAX_HEADER", 1000)
    with pytest.raises(BundleError, match=r"its texts take 1,.* bytes, but 1,000 are allowed"):
        encode_header({"a": "x" * 900}, {})


@pytest.mark.parametrize("axis", [2**20, 2**40, 2**61])
def test_huge_claims_take_no_memory(tmp_path, axis):
    path = forge(tmp_path / "m", {"x": entry([axis], 0, 4 * axis)}, b"\0" * 8)
    tracemalloc.start()
    with pytest.raises(BundleError):
        read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300_000


def test_reading_takes_little_more_memory_than_the_tensors(tmp_path):
    path = save(tmp_path / "m", tensors={str(i): np.ones(250_000, np.float32) for i in range(8)})
    tracemalloc.start()
    kept = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(kept[1]) == 8
    assert peak < 8_000_000 + 300_000


def test_a_file_cut_short_while_being_read_is_noticed(tmp_path):
    path = save(tmp_path / "m", tensors={"x": np.ones(100_000, np.float32)})
    with tensorfile.opened(path) as file:
        header = tensorfile.read_header(file)
        os.truncate(path, 150_000)
        with pytest.raises(Damaged, match="became shorter while it was read"):
            tensorfile.read_tensors(file, header)


def test_too_little_memory_is_said():
    with pytest.raises(BundleError, match="big: it does not fit into memory"), tensorfile.naming(Path("big")):
        raise MemoryError


# ---------------------------------------------------------------- any damage at all


@pytest.fixture(scope="module")
def valid(tmp_path_factory) -> bytes:
    return save(tmp_path_factory.mktemp("valid") / "m").read_bytes()


def read_or_refuse(content: bytes, folder: Path) -> bool:
    """True if it was read; then it must be what was saved, because the checksum covers everything."""
    (folder / "m").write_bytes(content)
    try:
        text, tensors = read(folder / "m")
    except BundleError as fault:
        if not str(fault).startswith(f"{folder / 'm'}: "):
            raise
        return False
    assert text == TEXT
    assert_same(tensors, TENSORS)
    return True


def test_every_single_bit_flip_is_found(valid, tmp_path):
    for i in range(len(valid)):
        flipped = bytearray(valid)
        flipped[i] ^= 1 << (i % 8)
        assert not read_or_refuse(bytes(flipped), tmp_path), i


def test_every_truncation_is_found(valid, tmp_path):
    assert read_or_refuse(valid, tmp_path)
    assert not any(read_or_refuse(valid[:length], tmp_path) for length in range(len(valid)))
    assert not read_or_refuse(valid + b"\0", tmp_path)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_splice_or_overwriting_escapes_the_checks(valid, tmp_path_factory, data):
    place = st.integers(0, len(valid))
    start, stop, source = data.draw(place), data.draw(place), data.draw(place)
    patch = data.draw(st.binary(max_size=20) | st.just(valid[source : source + 20]))
    read_or_refuse(valid[: min(start, stop)] + patch + valid[max(start, stop) :], tmp_path_factory.getbasetemp())


@given(
    claims=st.dictionaries(
        st.text(max_size=3), st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), json_values)
    )
)
@settings(max_examples=200, deadline=None)
def test_no_signed_nonsense_escapes_the_checks(tmp_path_factory, claims):
    path = forge(tmp_path_factory.getbasetemp() / "forged", claims, b"\0" * 8)
    with pytest.raises(BundleError):
        read(path)
