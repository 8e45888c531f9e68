"""One JSON text and many arrays in a safetensors file: a careful reader, a writer that repeats itself exactly (W).

The layout is safetensors' own, so that any tool can read the arrays: eight bytes of header length (little-endian), a
JSON header, the raw bytes of the tensors without gaps (https://github.com/huggingface/safetensors#format). The
header's `__metadata__` has two entries: `graftage`, the JSON text, and `sha256`, a checksum over that text, the
tensors' names, types, shapes and places, and their bytes.

Reading trusts nothing. The header is checked as a whole before any tensor gets memory, no tensor gets more memory than
the file has bytes for it, and nothing in the file is code. The checksum finds damage, not forgery: whoever can change
a file can also sign it anew. Every fault is a `BundleError`; inner functions state the fact, `naming` puts the file's
name before it.

The writer is our own because the safetensors package orders its metadata by chance, and the same model should give the
same bytes. What the reader here accepts, the package accepts too.
"""

import hashlib
import io
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftage.errors import BundleError

Array = NDArray[np.generic]
Json = dict[str, Any]

# Longest header, in bytes: the bound that the safetensors package sets too.
MAX_HEADER = 100_000_000
# NumPy arrays have at most 32 axes (before NumPy 2) and fewer than 2^63 bytes, empty ones with long axes included.
MAX_AXES = 32
MAX_TENSOR_BYTES = 2**60

# bfloat16 is left out because NumPy has no such type, booleans because a byte other than 0 and 1 is none, and the bytes
# are not to be trusted.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}

# Second byte of a pickle: its protocol (before 2, pickles have no mark; they count as foreign all the same).
_PICKLES = (b"\x02", b"\x03", b"\x04", b"\x05")
_TEXT = "graftage"
_CHECKSUM = "sha256"
_ENTRY: Mapping[str, object] = {"dtype": str, "shape": list, "data_offsets": list}


@dataclass(frozen=True)
class Entry:
    """One tensor as the header describes it.

    Attributes:
        name: of the tensor.
        dtype: a key of `DTYPES`.
        shape: lengths of the axes; () is a single number.
        start: its first byte, counted from the end of the header.
        stop: one past its last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Header:
    """A header that is valid JSON and has our text; its tensors are still unchecked claims, see `layout`.

    Attributes:
        text: the JSON text, parsed; always an object.
        metadata: the header's `__metadata__`.
        claims: tensor name to what the header says of it, unchecked.
        room: bytes in the file after the header.
    """

    text: Json
    metadata: Json
    claims: Json
    room: int


# ---------------------------------------------------------------- faults


def foreign(why: str) -> BundleError:
    """The fault of a file that is none of ours."""
    return BundleError(f"is not a graftage model ({why}): use a file that `graftage train` wrote")


class Damaged(BundleError):
    """The fault of a file that was ours once or is made to look so; `why` is the plain fact."""

    def __init__(self, why: str) -> None:
        super().__init__(f"is damaged ({why}): copy it again from where it was made, or train again")
        self.why = why


def newer(why: str) -> BundleError:
    """The fault of a file with parts that this version does not know."""
    return BundleError(f"was made by a newer graftage? ({why}): upgrade with `pip install -U graftage`")


@contextmanager
def naming(path: Path, *, saving: bool = False) -> Iterator[None]:
    """Put the file's name before every fault raised inside; system errors become ours."""
    doing = f"{path}: cannot be saved: " if saving else f"{path}: "
    try:
        yield
    except Damaged as fault:
        raise BundleError(f"{doing}{fault.why}: correct it first" if saving else f"{doing}{fault}") from fault
    except BundleError as fault:
        raise BundleError(f"{doing}{fault}") from fault
    except OSError as fault:
        raise BundleError(f"{doing}{fault.strerror or fault}: check the place, its permissions, its space") from fault
    except MemoryError as fault:
        raise BundleError(f"{doing}it does not fit into memory: close other programs") from fault


def check_fields(record: object, wanted: Mapping[str, object], what: str) -> Json:
    """Return the record if it is an object of exactly these fields (name to type; a bool is no int).

    Raises:
        BundleError: it is none, or a field is missing, unknown or of another type; `what` names it in the message.
    """
    if not isinstance(record, dict):
        raise Damaged(f"{what} is no JSON object")
    if missing := sorted(wanted.keys() - record.keys()):
        raise Damaged(f"{what} lacks {', '.join(missing)}")
    if unknown := sorted(record.keys() - wanted.keys()):
        raise newer(f"{what} has the unknown field {unknown[0][:80]!a}")
    for name, kind in wanted.items():
        if type(record[name]) is not kind:
            raise Damaged(f"{what}: {name} is of type {type(record[name]).__name__}")
    return record


# ---------------------------------------------------------------- JSON


def dump_json(value: object) -> str:
    """JSON with sorted keys and no spaces: the same value always gives the same text.

    Raises BundleError for a value that JSON does not know, NaN or infinity, and text that is not valid Unicode.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        text.encode("utf-8")
    except UnicodeEncodeError as fault:
        around = fault.object[max(fault.start - 20, 0) : fault.end]
        raise BundleError(f"the text {around!a} is no valid Unicode: rename what it names") from fault
    except (TypeError, ValueError, RecursionError) as fault:
        raise BundleError(f"a value cannot be written as JSON ({fault}): use text, numbers, lists, dicts") from fault
    return text


def parse_json(raw: bytes, what: str) -> object:
    """Strict JSON: UTF-8, no duplicate keys, no NaN or infinity, no lone surrogates.

    Raises BundleError if it is not that; `what` names the text in the message.
    """
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
        if "\\u" in text:  # only an escape can smuggle in half a surrogate pair
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as fault:
        raise Damaged(f"{what} is not valid JSON: {fault}") from fault
    return value


def _unique(pairs: list[tuple[str, object]]) -> Json:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key appears twice")
    return record


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


# ---------------------------------------------------------------- writing


def in_order(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors as the file holds them: little-endian, contiguous, widest type first so that each lies aligned.

    Raises:
        BundleError: a tensor has a type outside `DTYPES`.
    """
    stored = {name: _stored(name, tensor) for name, tensor in tensors.items()}
    return dict(sorted(stored.items(), key=lambda item: (-item[1].itemsize, item[0])))


def _stored(name: str, tensor: Array) -> Array:
    dtype = tensor.dtype.newbyteorder("<")
    if dtype not in DTYPES.values():
        known = ", ".join(str(dtype) for dtype in DTYPES.values())
        raise BundleError(f"tensor {name[:80]!a} has type {tensor.dtype}: convert it to one of {known}")
    return np.ascontiguousarray(tensor, dtype).reshape(tensor.shape)  # ascontiguousarray makes () into (1,)


def encode_header(text: Json, tensors: Mapping[str, Array]) -> bytes:
    """The JSON header for tensors that come from `in_order`, padded with spaces to a multiple of eight bytes.

    Raises:
        BundleError: the text cannot be written as JSON, or the header would be longer than `MAX_HEADER`.
    """
    claims = _claims(tensors)
    signed = hashlib.sha256(_signed(text, claims))
    for tensor in tensors.values():
        signed.update(_bytes_of(tensor))
    metadata = {_TEXT: dump_json(text), _CHECKSUM: signed.hexdigest()}
    header = dump_json({"__metadata__": metadata, **claims}).encode("utf-8")
    if len(header) > MAX_HEADER - 8:
        raise BundleError(f"its texts take {len(header):,} bytes, but {MAX_HEADER:,} are allowed: shorten them")
    return header + b" " * (-len(header) % 8)


def _claims(tensors: Mapping[str, Array]) -> Json:
    codes = {dtype: code for code, dtype in DTYPES.items()}
    claims, start = {}, 0
    for name, tensor in tensors.items():
        stop = start + tensor.nbytes
        claims[name] = {"dtype": codes[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    return claims


def _signed(text: Json, claims: Json) -> bytes:
    """What the checksum covers, apart from the tensors' bytes, which follow."""
    return dump_json([text, claims]).encode("utf-8")


def _bytes_of(tensor: Array) -> memoryview:
    return tensor.reshape(-1).view(np.uint8).data


def write(path: Path, header: bytes, tensors: Mapping[str, Array]) -> None:
    """Write under a temporary name in the same folder, force it to disk, rename.

    Whatever happens, `path` holds the old file or the whole new one, and no temporary file stays. Raises OSError.
    """
    temporary = path.parent / f".graftage-{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for tensor in tensors.values():
                file.write(_bytes_of(tensor))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# ---------------------------------------------------------------- reading


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a regular file for reading; a folder, a pipe or a missing file is a `BundleError`."""
    if path.is_dir():
        raise BundleError("is a folder: name the file in it, usually model.safetensors")
    if not path.is_file():
        raise BundleError("there is no such file: check the name")
    with path.open("rb") as file:
        yield file


def read_header(file: io.BufferedReader) -> Header:
    """Read the header and our text from the start of a file; leaves the file at the first tensor.

    Raises:
        BundleError: the file is empty, a pickle, no safetensors, or has no text of ours; or its JSON is not valid.
    """
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(9)
    length = int.from_bytes(prefix[:8], "little")
    _check_prefix(prefix, size, length)
    return parse_header(prefix[8:] + file.read(length - 1), size - 8 - length)


def _check_prefix(prefix: bytes, size: int, length: int) -> None:
    if size == 0:
        raise BundleError("is empty: copy it again from where it was made, or train again")
    if prefix[8:] != b"{" and (prefix[:4] == b"PK\x03\x04" or (prefix[:1] == b"\x80" and prefix[1:2] in _PICKLES)):
        raise foreign("a pickle, as torch.save makes them: these can run code, so they are never loaded")
    if length < 2 or prefix[8:] != b"{":
        raise foreign("not a safetensors file")
    if length > MAX_HEADER:
        raise Damaged(f"a header of {length:,} bytes, but {MAX_HEADER:,} are allowed")
    if length > size - 8:
        raise Damaged(f"a header of {length:,} bytes in a file of {size:,}; it may be half a copy")


def parse_header(raw: bytes, room: int) -> Header:
    """Parse a header (without its length) and our text in it; `room` bytes of the file follow the header.

    Raises:
        BundleError: it is not valid JSON, or not a header with our text.
    """
    claims = parse_json(raw, "its header")
    if not isinstance(claims, dict):
        raise Damaged("its header is no JSON object")
    metadata = claims.pop("__metadata__", None)
    if not isinstance(metadata, dict) or _TEXT not in metadata:
        raise foreign("a safetensors file without graftage's own header")
    if not isinstance(metadata[_TEXT], str):
        raise Damaged("graftage's own header is no text")
    text = parse_json(metadata[_TEXT].encode("utf-8"), "graftage's own header")
    if not isinstance(text, dict):
        raise Damaged("graftage's own header is no JSON object")
    return Header(text, metadata, claims, room)


def layout(header: Header) -> tuple[Entry, ...]:
    """The tensors in the order of the file, after checking that they fill it without gap or overlap.

    Raises:
        BundleError: an unknown type, an impossible shape, or places that do not fit the shapes or the file.
    """
    check_fields(header.metadata, {_TEXT: str, _CHECKSUM: str}, "its metadata")
    entries = sorted(
        (_entry(*claim, room=header.room) for claim in header.claims.items()),
        key=lambda entry: (entry.start, entry.stop),
    )
    end = 0
    for entry in entries:
        if entry.start != end:
            raise Damaged(f"tensor {entry.name[:80]!a} begins at byte {entry.start:,}, the one before ends at {end:,}")
        end = entry.stop
    if end != header.room:
        raise Damaged(f"its tensors take {end:,} bytes, but the file has {header.room:,}; it may be half a copy")
    return tuple(entries)


def _entry(name: str, claim: object, *, room: int) -> Entry:
    what = f"tensor {name[:80]!a}"
    record = check_fields(claim, _ENTRY, what)
    shape, offsets = record["shape"], record["data_offsets"]
    if record["dtype"] not in DTYPES:
        raise Damaged(f"{what} has the type {record['dtype'][:80]!a}, not one of {', '.join(DTYPES)}")
    if not all(type(number) is int and number >= 0 for number in (*shape, *offsets)) or len(offsets) != 2:
        raise Damaged(f"{what} has a shape or place that is no list of whole numbers from 0")
    if not offsets[0] <= offsets[1] <= room:
        raise Damaged(f"{what} lies outside the file; it may be half a copy")
    itemsize = DTYPES[record["dtype"]].itemsize
    if len(shape) > MAX_AXES or math.prod(max(axis, 1) for axis in shape) * itemsize > MAX_TENSOR_BYTES:
        raise Damaged(f"{what} has an impossible shape")
    if math.prod(shape) * itemsize != offsets[1] - offsets[0]:
        raise Damaged(f"{what} has a shape that does not fit its {offsets[1] - offsets[0]:,} bytes")
    return Entry(name, record["dtype"], tuple(shape), offsets[0], offsets[1])


def read_tensors(file: io.BufferedReader, header: Header) -> dict[str, Array]:
    """Read the tensors that follow the header, and check the checksum.

    Args:
        file: at the first tensor, where `read_header` leaves it.
        header: of this file.

    Returns:
        Name to array, in the order of the file. Every array owns its memory.

    Raises:
        BundleError: as `layout`; the file ends early; or the checksum differs.
    """
    entries = layout(header)
    tensors, signed = {}, hashlib.sha256(_signed(header.text, header.claims))
    for entry in entries:
        raw = np.empty(entry.stop - entry.start, np.uint8)
        if file.readinto(raw.data) != raw.nbytes:
            raise Damaged("it became shorter while it was read")
        signed.update(raw.data)
        tensors[entry.name] = raw.view(DTYPES[entry.dtype]).reshape(entry.shape)
    if signed.hexdigest() != header.metadata[_CHECKSUM]:
        raise Damaged("its content does not have the checksum that it was saved with")
    return tensors
