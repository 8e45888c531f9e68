"""What a run leaves: every file under its name, written to a temporary place and renamed."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graftage import growth, story, telling, world
from graftage.card import card
from graftage.data.catalog import Catalog, write_csv, write_ledger
from graftage.data.checks import problems, write_problems
from graftage.data.grouping import copies_of, groups_of
from graftage.data.listing import title_of
from graftage.errors import OptionError, StoreError
from graftage.features import cache
from graftage.measure.scores import Scores, to_json
from graftage.measuring import Leak, Measured
from graftage.progress import Journal
from graftage.report.contents import Baseline
from graftage.report.page import render
from graftage.serve.bundle import MODEL as MODEL
from graftage.serve.bundle import Bundle, save
from graftage.settings import Settings
from graftage.story import Outcome
from graftage.versus import Compared
from graftage.writing import free_folder, json_text, unwritable, write_json, write_text

REPORT, METRICS, PREDICTIONS = "report.html", "metrics.json", "predictions.csv"
LEDGER, PROBLEMS, CONFIG, LOG = "ledger.csv", "problems.csv", "config.toml", "log.jsonl"
COMPARISON = "comparison.json"
_BESIDE_WEIGHTS = 16_000_000  # bytes of a head that keeps pictures, thumbnails, tables and a report
FILES = frozenset({MODEL, REPORT, METRICS, PREDICTIONS, LEDGER, PROBLEMS, CONFIG, LOG})


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` found.

    Attributes:
        scores: on pictures that the model was not trained on.
        summary: a few lines for a person.
        notes: what to keep in mind.
        folder: where the files were written, or None.
        compared: with another model, where that was asked for.
    """

    scores: Scores
    summary: tuple[str, ...]
    notes: tuple[str, ...]
    folder: Path | None
    compared: Compared | None = None


@contextmanager
def run_folder(settings: Settings) -> Iterator[tuple[Path, Path]]:
    """(folder to write into, folder it will become): a run appears whole, or not at all.

    Raises:
        OptionError: the folder exists and is not to be replaced, or lies among the pictures.
        StoreError: it cannot be written.
    """
    final = Path(settings.output) if settings.output else free_folder(Path("runs"), title_of(settings.data))
    if world.rank():  # only process 0 leaves a run
        with tempfile.TemporaryDirectory() as nowhere:
            yield Path(nowhere), final
        return
    _require_room(final, settings)
    made = [parent for parent in final.parents if not parent.exists()]  # innermost first
    temporary: Path | None = None
    try:
        temporary = _temporary(final)
        yield temporary, final
        _appear(temporary, final, overwrite=settings.overwrite)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        with suppress(OSError):  # the first that is not empty, or is not there, ends it
            for parent in made:
                parent.rmdir()


def _require_room(final: Path, settings: Settings) -> None:
    if final.resolve().is_relative_to(Path(settings.data).resolve()):
        raise OptionError(
            f"the run would be written to {final}, among the pictures of {settings.data}, and taken for a class next "
            "time; name a folder elsewhere with -o"
        )
    if not final.exists():
        return
    if not settings.overwrite:
        raise OptionError(f"{final} exists already; take another -o, or --overwrite to replace it")
    if not final.is_dir():
        raise OptionError(f"{final} is a file and will not be replaced; take another -o")
    names = {path.name for path in final.iterdir()}
    if names and not (CONFIG in names and names <= FILES):
        others = ", ".join(sorted(names - FILES)[:3]) or "no config.toml"
        raise OptionError(
            f"{final} holds other things than a graftage run ({others}); it will not be replaced, take another -o"
        )


def require_space(folder: Path, final: Path, parameters: int) -> None:
    """Raises StoreError where there is no room for a model of so many parameters: told before hours of training.

    Args:
        folder: the one that is written into.
        final: the one that it will become.
        parameters: of the network.
    """
    cache.require_space(folder, 4 * parameters + _BESIDE_WEIGHTS, f"free some space or take another -o than {final}")


def _temporary(final: Path) -> Path:
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    except OSError as error:
        raise StoreError(f"{final}: cannot be made ({error.strerror}); take another -o") from error
    temporary.chmod(0o755)
    return temporary


def _appear(temporary: Path, final: Path, *, overwrite: bool) -> None:
    if final.exists() and not overwrite:
        raise OptionError(f"{final} was made by someone else meanwhile; the same command with another -o is quick now")
    try:
        with _aside(final):
            temporary.rename(final)
    except OSError as error:
        raise StoreError(f"{final}: cannot be put in place ({error.strerror}); take another -o") from error


@contextmanager
def _aside(final: Path) -> Iterator[None]:
    """Keeps what lies at `final` aside until the block has replaced it; it comes back if that failed."""
    if not final.exists():
        yield
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{final.name}.old.", dir=final.parent))
    old = aside / "run"
    try:
        final.rename(old)
        yield
    finally:
        if old.exists() and not final.exists():
            old.rename(final)
        shutil.rmtree(aside, ignore_errors=True)


def write(folder: Path, final: Path, outcome: Outcome, journal: Journal) -> tuple[str, ...]:
    """Writes all files of a run into `folder`; returns the summary, which speaks of `final`.

    Raises:
        StoreError: something cannot be written.
    """
    catalog, measured = outcome.catalog, outcome.measured
    try:
        with journal.stage("write"):
            save(outcome.bundle, folder / MODEL)
            write_ledger(_with_groups(outcome), folder / LEDGER)
            write_problems(outcome.problems, folder / PROBLEMS)
            _write_predictions(measured, catalog, folder / PREDICTIONS)
            write_text(metrics(outcome), folder / METRICS)
            config = replace(outcome.settings, output=str(final)).to_toml()
            write_text(config, folder / CONFIG, errors="surrogateescape")
        with journal.stage("report"):
            outcome = replace(outcome, timing=journal.timing, notes=tuple(journal.notes))
            page = replace(story.report(outcome, size=(folder / MODEL).stat().st_size), card=card(outcome))
            write_text(render(page), folder / REPORT)
    except OSError as error:
        raise StoreError(
            f"{final}: cannot be written ({error.strerror}); free some space or take another -o"
        ) from error
    return story.summary(outcome, final)


def evaluation_folder(output: str | Path | None) -> Path | None:
    """The folder that an evaluation is written to, if any. Raises OptionError if it holds something better kept."""
    if output is None:
        return None
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"{folder} is a file; name a folder with -o")
    if (folder / CONFIG).exists():
        raise OptionError(f"{folder} holds a training run, whose tables would be replaced; take another -o")
    return folder


def write_evaluation(
    folder: Path | None, catalog: Catalog, measured: Measured, bundle: Bundle, journal: Journal
) -> Evaluated:
    """Writes what `evaluate` found into `folder`, if there is one."""
    copies = copies_of(catalog)
    settings = Settings(data=catalog.root)
    found = Outcome(
        settings,
        catalog,
        problems(catalog, groups_of(catalog), copies),
        bundle,
        measured,
        journal.timing,
        tuple(journal.notes),
    )
    s, counts = measured.scores, catalog.counts()
    lines = (
        f"{s.n:,} pictures measured, {counts['rejected']:,} left out",
        f"accuracy            {s.accuracy.percent()}",
        f"macro F1            {s.macro_f1.percent()}",
        f"balanced accuracy   {s.balanced_accuracy.percent()}",
        f"log-loss            {s.log_loss.number()}",
        *telling.summary_lines(measured.promises),
        *(f"note                {notice}" for notice in story.notices(found)),
    )
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_ledger(_with_groups(found), folder / LEDGER)
            _write_predictions(measured, catalog, folder / PREDICTIONS)
            write_text(metrics(found), folder / METRICS)
            write_text(render(story.report(found, size=0)), folder / REPORT)
        except OSError as error:
            raise unwritable(folder, error) from error
        lines = (*lines, f"report              {folder / REPORT}")
    return Evaluated(s, lines, tuple(journal.notes), folder)


def with_comparison(evaluated: Evaluated, compared: Compared) -> Evaluated:
    """An evaluation and what it was compared with; its folder, if there is one, gets `comparison.json`."""
    if evaluated.folder is not None:
        write_json(compared.to_json(), evaluated.folder / COMPARISON)
    return replace(evaluated, compared=compared, summary=(*evaluated.summary, "", *compared.summary))


def comparison_file(output: str | Path | None) -> Path | None:
    """The file that a comparison is written to, if any. Raises OptionError if it would replace something else."""
    if output is None:
        return None
    path = Path(output)
    if path.suffix.lower() != ".json" or path.name in FILES or path.is_dir():
        raise OptionError(f"{path} is no name for a comparison; name a file of its own with -o, such as {COMPARISON}")
    return path


def metrics(outcome: Outcome) -> str:
    """The text of `metrics.json`: scores with intervals, baselines, how it was measured."""
    measured, catalog = outcome.measured, outcome.catalog
    whole = {
        "scores": to_json(measured.scores),
        "baselines": [_baseline_json(baseline) for baseline in measured.baselines],
        "how": measured.how,
        "learnt_from": measured.learnt_from,
        "pictures": catalog.counts(),
        "tried": [
            {"name": name, "log_loss": loss, "accuracy": accuracy, "chosen": chosen}
            for name, loss, accuracy, chosen in measured.tried
        ],
        "backbone": outcome.bundle.backbone.id,
        "fit": outcome.bundle.preprocess.fit,
        "temperature": outcome.bundle.temperature,
        **({} if measured.promises is None else {"decisions": measured.promises.to_json()}),
        **({} if outcome.adapted is None else dict(outcome.adapted.story)),
        **({} if outcome.curve is None else {"curve": growth.curve_json(outcome.curve, catalog.classes)}),
        "recipe": "linear" if outcome.adapted is None else outcome.adapted.shipped,
        "leak": None if measured.leak is None else _leak_json(measured.leak),
        "suspected_groups": [each.to_json() for each in outcome.suspected],
        "shortcuts": [each.to_json() for each in outcome.shortcuts],
    }
    return json_text(whole)


def _leak_json(leak: Leak) -> dict[str, Any]:
    return {"pictures": leak.n, "of": leak.of, "scores_with_them": to_json(leak.scores)}


def _baseline_json(baseline: Baseline) -> dict[str, Any]:
    gain = baseline.difference
    return {
        "name": baseline.name,
        "accuracy": vars(baseline.accuracy),
        "macro_f1": vars(baseline.macro_f1),
        "difference": vars(gain) if gain else None,
        "p": baseline.p,
    }


def _with_groups(outcome: Outcome) -> Catalog:
    """The ledger's catalog: groups filled in, and the locked test rows named as such."""
    catalog, measured = outcome.catalog, outcome.measured
    groups = groups_of(catalog)
    own = outcome.settings.test == "auto" and any(e.split in ("val", "test") for e in catalog.entries)
    held = set(measured.rows.tolist()) if measured.apart and not own else set()
    return catalog.with_entries(
        {
            e.index: replace(e, group=-1)
            if e.status == "rejected"
            else replace(e, group=int(groups[e.index]), split=_part(e.split, e.index in held, bool(held)))
            for e in catalog.entries
        }
    )


def _part(given: str, held: bool, locked: bool) -> str:
    return ("test" if held else "train") if locked else given


def _write_predictions(measured: Measured, catalog: Catalog, path: Path) -> None:
    decided = ("prediction_set", "abstained", "unlike_p", "unlike")
    columns = ("id", "label", "predicted", "probability", "runner_up", *decided, *(f"p:{c}" for c in catalog.classes))
    write_csv(path, columns, story.prediction_rows(measured, catalog))
