"""Model → a file for another runtime, kept only if it answers as the model does on the user's own pictures (W).

An export is a folder: the graph, its metadata inside, and a short program that uses it without graftage. It is made
under a temporary name, asked about pictures from their raw bytes in its own runtime, and renamed if it passes.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import PIL

from graftage.errors import ExportError, OptionError, StoreError
from graftage.features.extract import Progress
from graftage.serve.about import about
from graftage.serve.browsing import Browsed, browse
from graftage.serve.bundle import Bundle
from graftage.serve.checking import Answer, Checked, compare, judged, short_side, usable
from graftage.serve.flagging import Flag, Flags, flags_of, require_same, strange_flags
from graftage.serve.lighter import MAX_LOSS, Changed, changed, lighten, timed
from graftage.serve.precision import PRECISIONS, Precision
from graftage.serve.predict import Predictor
from graftage.serve.sample import Sample
from graftage.serve.targets import TARGETS, Run, Target, write_onnx
from graftage.serve.webfolder import add_page
from graftage.serve.wholegraph import LARGEST_SIDE, OUTPUTS, WholeGraph, exported_program

FORMAT = 1  # of the metadata
_AGAIN = 3  # pictures that are asked once more of the finished file
_ALIKE = 1e-5  # of a probability: what two sessions of one file may differ by
_TIMED = 22  # pictures that the speed is measured on
_EXAMPLE = "example.py"
_FLAGS = tuple(zip(OUTPUTS[1:], ("float32", "bool"), strict=True))  # outputs, with their types


@dataclass(frozen=True)
class Made:
    """What an export is made into.

    Attributes:
        to: one of `TARGETS`.
        output: the folder, which must not exist.
        precision: "float32", or "fp16" or "int8" for a file in fewer bits.
        max_loss: of a file in fewer bits: share of accuracy that it may lose, 0 to 1.
        runtime: for "web": onnxruntime-web, as a folder or the file that `npm pack` leaves.
    """

    to: str
    output: Path
    precision: Precision = "float32"
    max_loss: float = MAX_LOSS / 100
    runtime: Path | None = None


@dataclass(frozen=True)
class Exported:
    """An export that passed.

    Attributes:
        folder: where it is.
        target: its format.
        files: in the folder, with their sizes in bytes.
        checked: how it did.
        before: of a file in fewer bits: bytes of the same graph in float32, and seconds a picture of that and of
            this, measured when it was made.
        browsed: of an export to web: how its page did in a browser, or why none was tried.
    """

    folder: Path
    target: str
    files: Mapping[str, int]
    checked: Checked | Changed
    before: tuple[int, float, float] | None = None
    browsed: Browsed | None = None

    @property
    def summary(self) -> tuple[str, ...]:
        """A few lines for a person."""
        c = self.checked
        size = sum(self.files.values()) / 2**20
        lines = [*c.summary]
        if c.rejected:
            lines.append(f"{c.rejected:,} more could not be used")
        if c.otherwise and self.target != "web":
            lines.append(
                f"{c.otherwise:,} of them have transparency, 16 bits or an odd ICC profile, which {_EXAMPLE} leaves "
                "out: it gives other answers for such pictures"
            )
        if self.browsed is not None:
            lines.append(self.browsed.summary)
        if self.before is not None:
            lines.append(self._against(*self.before))
        return (*lines, f"{self.target:<12}{self.folder}  ({', '.join(self.files)}; {size:.1f} MiB)")

    def _against(self, bytes_before: int, before: float, after: float) -> str:
        graph = sum(size for name, size in self.files.items() if name.startswith("model."))
        pace = "as fast" if 0.95 < before / after < 1.05 else f"{before / after:.2f} times as fast"
        return (
            f"graph of {graph / 2**20:.1f} MiB instead of {bytes_before / 2**20:.1f}; {1000 * after:.1f} ms a picture "
            f"instead of {1000 * before:.1f}, resize and all: {pace} on this machine now"
        )


def export(predictor: Predictor, sample: Sample, made: Made, *, progress: Progress | None = None) -> Exported:
    """Writes an export, checks it, and keeps it if it passes.

    Args:
        predictor: the model, opened with precision "float32".
        sample: pictures to check it on, and what else is asked of them.
        made: the format, the precision and the folder.
        progress: called with (done, total) pictures.

    Raises:
        OptionError: an unknown target or precision, an output that exists, no pictures, a missing package or runtime.
        ExportError: no graph can be made, or it gives other answers; nothing is left behind.
        StoreError: the folder cannot be written.
    """
    target, output = _target(made.to), made.output
    require_precision(target, made.precision)
    if output.exists() or output.is_symlink():
        raise OptionError(f"{output} exists already; name another folder with -o")
    if not sample.check:
        raise OptionError("an export is checked before it is kept, and there are no pictures to check it on")
    with _appearing(output) as folder:
        graph, bundle = folder / target.file, predictor.bundle
        built = _built(predictor, bundle, graph, sample, made, progress)
        if (flags := built.checked.flags) is not None and not flags.holds and made.precision != "float32":
            flags = replace(flags, kept=False)
            bundle = without_flag(bundle, made.precision, flags)
            built = _built(predictor, bundle, graph, sample, made, progress)
            built = replace(built, checked=replace(built.checked, flags=flags))
        browsed = None
        if made.to == "web":
            known = _with_change(about(bundle, _name(predictor)), built.checked)
            add_page(folder, known, short_side(bundle), made.runtime)
            light, limits = made.precision != "float32", predictor.limits
            browsed = browse(folder, built.answers, limits=limits, light=light, progress=progress)
        else:
            (folder / _EXAMPLE).write_text(example(made.to), encoding="utf-8")
        target.label(graph, metadata(bundle, target.name, built.checked, browsed))
        _ask_again(predictor, target, graph, built.answers[:_AGAIN])
    files = {file.relative_to(output).as_posix(): file.stat().st_size for file in sorted(output.rglob("*.*"))}
    return Exported(output, made.to, files, built.checked, built.before, browsed)


@dataclass(frozen=True)
class _Built:
    """A graph that was written and passed: the answers compared, the verdict, and `Exported.before`."""

    answers: Sequence[Answer]
    checked: Checked | Changed
    before: tuple[int, float, float] | None = None


def _built(
    predictor: Predictor, bundle: Bundle, graph: Path, sample: Sample, made: Made, progress: Progress | None
) -> _Built:
    """Writes the graph of a bundle and compares it with the model."""
    target = TARGETS[made.to]
    program = exported_program(WholeGraph(bundle, exact=target.exact))
    if made.precision != "float32":
        return _lighter(predictor, program, graph, sample, made, progress)
    target.write(program, graph)
    run = target.open(graph)
    answers, rejected, otherwise = compare(predictor, run, sample.check, progress)
    known, strange = _flags(answers), strange_flags(predictor, run)
    checked = judged(answers, rejected=rejected, otherwise=otherwise, flags=flags_of(known, strange))
    if bundle.decisions.unlike is not None:
        require_same(bundle.decisions.unlike, [*known, *strange])
    return _Built(answers, checked)


def _flags(answers: Sequence[Answer]) -> list[Flag]:
    return [answer.flag for answer in answers if answer.flag is not None]


def without_flag(bundle: Bundle, precision: Precision, flags: Flags) -> Bundle:
    """The model without its detector, whose place a reason takes."""
    reason = (
        f"in {precision} the flag for pictures unlike those trained on is left out: it was the same for {flags.same:,} "
        f"of {flags.n:,} pictures, and for {flags.strange_same} of {flags.strange} made to be strange"
    )
    decisions = bundle.decisions
    return replace(bundle, decisions=replace(decisions, unlike=None, reasons={**decisions.reasons, "unlike": reason}))


def _lighter(
    predictor: Predictor, program: Any, graph: Path, sample: Sample, made: Made, progress: Progress | None
) -> _Built:
    """Writes a graph in fewer bits and measures what it changes, against the model and against its graph in float32."""
    onnx: Any = import_module("onnx")
    target = TARGETS[made.to]
    assert target.convert is not None, "require_precision has refused"
    with tempfile.TemporaryDirectory(dir=graph.parent) as scratch:
        middle, plain = Path(scratch) / "middle.onnx", Path(scratch) / target.file
        write_onnx(program, middle)
        target.convert(middle, plain)
        model = onnx.load(middle)
        calibrated = lighten(model, made.precision, predictor, sample.calibrate)
        onnx.save(model, middle)
        target.convert(middle, graph)
        size = sum(plain.with_suffix(suffix).stat().st_size for suffix in _suffixes(plain))
        run, first = target.open(graph), target.open(plain)
    answers, rejected, otherwise = compare(predictor, run, sample.check, progress)
    found = changed(
        answers,
        sample,
        precision=made.precision,
        counts=(rejected, otherwise, calibrated),
        max_loss=made.max_loss,
        flags=flags_of(_flags(answers), strange_flags(predictor, run)),
    )
    seconds = _speed(predictor, first, run, [Path(answer.path) for answer in answers[:_TIMED]])
    return _Built(answers, found, (size, *seconds))


def _suffixes(graph: Path) -> tuple[str, ...]:
    return tuple(file.suffix for file in graph.parent.glob("model.*"))


def _speed(predictor: Predictor, plain: Run, light: Run, pictures: Sequence[Path]) -> tuple[float, float]:
    return timed(plain, light, [usable(predictor, path)[1] for path in pictures])


def require_precision(target: Target, precision: str) -> Precision:
    """The precision by name. Raises OptionError where a format has none of that name."""
    found = next((each for each in PRECISIONS if each == precision), None)
    if found is None:
        raise OptionError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision != "float32" and target.convert is None:
        raise OptionError(
            f"--to {target.name} has float32 alone: a .pt2 file runs its weights as they are stored, and PyTorch on a "
            f"processor gains nothing from fp16 and has no int8 without a further package; --to onnx and --to openvino "
            f"have {precision}"
        )
    return found


def _target(to: str) -> Target:
    if to not in TARGETS:
        raise OptionError(f"to must be one of {', '.join(TARGETS)}, got {to!r}")
    TARGETS[to].require()
    return TARGETS[to]


def example(to: str) -> str:
    """The text of the program that uses an export."""
    return (resources.files("graftage.serve") / "examples" / f"{to}.py").read_text("utf-8")


def _name(predictor: Predictor) -> str:
    path = Path(predictor.source or "model")
    return path.resolve().parent.name if path.stem == "model" and predictor.source else path.stem


# ---------------------------------------------------------------- metadata


def metadata(bundle: Bundle, to: str, checked: Checked | Changed, browsed: Browsed | None = None) -> dict[str, Any]:
    """What lies in the file beside the graph, as JSON knows it.

    `classes` are in the order of the probabilities. A JPEG may be decoded at the smallest of 1, 1/2, 1/4 and 1/8 whose
    short side is at least `short_side` pixels, as training did. Thresholds: a class belongs to the prediction set where
    1 - p is at most `decisions.sets.threshold`, or where it is the most probable; an answer is promised where the
    largest probability is at least `decisions.answers.threshold`; a picture is flagged where `unlike_p` is at most
    `decisions.unlike.false_alarm`, which the graph decides itself. A rule that is null has its reason in
    `decisions.reasons`; without the last, the graph has no such outputs. `browser` is of the page of an export to web;
    its `reason` says why none was tried.
    """
    known, flags = _with_change(about(bundle, ""), checked), bundle.decisions.unlike is not None
    return {
        "format": FORMAT,
        "target": to,
        "precision": checked.precision if isinstance(checked, Changed) else "float32",
        "input": {"name": "pixels", "type": "uint8", "shape": ["height", "width", 3], "largest_side": LARGEST_SIDE},
        "outputs": [
            {"name": OUTPUTS[0], "type": "float32", "shape": [len(bundle.classes)]},
            *({"name": name, "type": kind, "shape": []} for name, kind in _FLAGS if flags),
        ],
        **{
            key: known[key]
            for key in ("classes", "card", "scores", "learnt_from", "backbone", "created", "versions", "decisions")
        },
        "preprocess": bundle.preprocess.to_json(),
        "short_side": short_side(bundle),
        "pillow": PIL.__version__,
        "checked": asdict(checked),
        **({} if browsed is None else {"browser": asdict(browsed)}),
    }


def _with_change(known: dict[str, Any], checked: Checked | Changed) -> dict[str, Any]:
    """What a model says of itself, with what fewer bits have changed."""
    return {**known, "card": [*known["card"], checked.card()]} if isinstance(checked, Changed) else known


# ---------------------------------------------------------------- kept or not


def _ask_again(predictor: Predictor, target: Target, graph: Path, before: Sequence[Answer]) -> None:
    """The finished file, metadata and all, still opens, tells its classes and gives the same answers."""
    answers, _, _ = compare(predictor, target.open(graph), [Path(answer.path) for answer in before])
    alike = len(answers) == len(before) and all(
        now.other == then.other and abs(now.difference - then.difference) <= _ALIKE
        for now, then in zip(answers, before, strict=True)
    )
    if not alike or list(target.read(graph)["classes"]) != list(predictor.classes):
        raise ExportError("the metadata cannot be read back from the file; it was not kept")


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that becomes it if the block succeeds, and vanishes if it does not."""
    temporary: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        temporary.chmod(0o755)
        yield temporary
        temporary.rename(output)
    except OSError as error:
        raise StoreError(f"{output}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
