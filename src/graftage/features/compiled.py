"""Compiled graphs, kept beside them: taking one up again takes a fifth of the time that compiling it takes.

What is kept bears the hash of all that it was made from (the graph's own bytes, OpenVINO's build, the processor, the
options) and of its own bytes: what does not fit, or is damaged, is made anew, never loaded. It computes the same bits.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from graftage.errors import StoreError
from graftage.features.cache import write_whole

LARGEST = 40_000_000  # bytes of weights; above, compiling is as fast as reading, and takes less memory
_DIGEST = hashlib.sha256().digest_size
_CPU = Path("/proc/cpuinfo")


def compiled(graph: Path, options: Mapping[str, Any], *, keep: bool) -> Any:
    """An OpenVINO graph, compiled for the processor.

    Args:
        graph: the .xml file, its weights as .bin beside it.
        options: of the compilation.
        keep: whether what was compiled is kept, and taken up where it was.

    Raises:
        RuntimeError: OpenVINO cannot load the graph.
    """
    import openvino

    core = openvino.Core()
    kept = _place(core, graph, options) if keep else None
    if kept is not None and (blob := _read(kept)):
        with suppress(RuntimeError):
            return core.import_model(io.BytesIO(blob), "CPU", dict(options))
    model = core.compile_model(str(graph), "CPU", dict(options))
    if kept is not None:
        blob = model.export_model().getvalue()
        with suppress(StoreError):  # a full disk or another's folder: it is compiled again next time
            write_whole(kept, hashlib.sha256(blob).digest() + blob)
    return model


def _place(core: Any, graph: Path, options: Mapping[str, Any]) -> Path | None:
    """The file for what is compiled; None where it is not worth it, or the graph cannot be read."""
    import openvino

    try:
        weights = graph.with_suffix(".bin")
        if weights.stat().st_size > LARGEST:
            return None
        made_from = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (graph, weights)]
    except OSError:
        return None
    made_from += [openvino.get_version(), *_processor(core), *(f"{name}={options[name]}" for name in sorted(options))]
    return graph.with_name(hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:24] + ".compiled")


def _processor(core: Any) -> list[str]:
    """What tells this processor from others that a home folder may be shared with."""
    told = [str(core.get_property("CPU", name)) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    with suppress(OSError), _CPU.open(encoding="ascii", errors="replace") as lines:
        told += [line for line in lines if line.startswith(("flags", "Features", "model name"))][:2]
    return told


def _read(path: Path) -> bytes:
    """What is kept there, b"" if nothing is, or it is not what was written."""
    try:
        whole = path.read_bytes()
    except OSError:
        return b""
    return whole[_DIGEST:] if hashlib.sha256(whole[_DIGEST:]).digest() == whole[:_DIGEST] else b""
