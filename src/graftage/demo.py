"""The demonstration: real pictures of solar cells, from the package to a report, beside the published results."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from graftage.errors import OptionError, StoreError
from graftage.pipeline import train
from graftage.progress import Watcher
from graftage.settings import Settings

DEFECTIVE = 0.5  # pictures whose defect probability is above this are called defective
_SAMPLES = 5
_CLASSES = frozenset({"defective", "functional"})

_SOURCE = (
    "pictures: elpv-dataset, 2,624 electroluminescence pictures of solar cells, CC BY-NC-SA 4.0 (non-commercial);",
    "labels: defect probability above 0.5 against not.",
)
# Deitsch et al. 2019, "Automatic classification of defective photovoltaic module cells in electroluminescence images",
# Solar Energy 185: accuracies over mono- and polycrystalline cells on their own test split, a quarter of the pictures.
_PUBLISHED = (
    "published on this data set (Deitsch et al. 2019; their own split, graded labels, no interval given):",
    "  SVM on hand-made features      accuracy 82.4 %",
    "  VGG19, all layers fine-tuned   accuracy 88.4 %",
)


def run_demo(output: Path, *, watcher: Watcher) -> list[str]:
    """Trains on the solar cells and predicts five held-out pictures; returns what to show.

    Raises:
        OptionError: the package with the pictures is not installed.
        StoreError: the folder cannot be written.
    """
    photos = _class_folders(_dataset_folder(), output / "solar-cells")
    # the head alone: tuning takes minutes, and a demonstration should not
    settings = Settings(data=str(photos), output=str(output / "run"), overwrite=True, recipe="linear")
    run = train(settings, watcher=watcher)
    lines = [*_SOURCE, "", *run.summary, "", *_PUBLISHED, "", "five held-out pictures, by the saved model file:"]
    held_out = _held_out(run.folder)[:_SAMPLES]
    for name, prediction in zip(held_out, run.predict([photos / name for name in held_out]), strict=True):
        lines.append(f"  {name:<28} {prediction.label:<11} {100 * prediction.probability:5.1f} %")
    return lines


def _dataset_folder() -> Path:
    spec = find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        raise OptionError("the demo's pictures are not installed: pip install 'graftage[demo]' (or elpv-dataset)")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def _class_folders(source: Path, target: Path) -> Path:
    """Links the package's pictures into class folders, as a user would lay them out."""
    try:
        _require_ours(target)
        for line in (source / "labels.csv").read_text(encoding="utf-8").splitlines():
            name, probability, _ = line.split()
            folder = target / ("defective" if float(probability) > DEFECTIVE else "functional")
            folder.mkdir(parents=True, exist_ok=True)
            _link(source / name, folder / Path(name).name)
    except OSError as error:
        raise StoreError(f"{target}: the demo's folders cannot be made ({error.strerror}); take another -o") from error
    return target


def _require_ours(target: Path) -> None:
    """Nothing of the user's is ever mixed with the demo's pictures, let alone removed."""
    others = {path.name for path in target.iterdir()} - _CLASSES if target.exists() else set()
    if others:
        raise OptionError(
            f"{target} holds other things than the demo's pictures ({', '.join(sorted(others)[:3])}); take another -o"
        )


def _link(source: Path, target: Path) -> None:
    if target.exists():  # from an earlier demo
        return
    target.unlink(missing_ok=True)  # a link whose package has moved
    try:
        target.symlink_to(source)
    except OSError:  # a file system or system without symbolic links
        shutil.copyfile(source, target)


def _held_out(run: Path) -> list[str]:
    """Ids of the test pictures, every hundredth, from the run's own table."""
    import csv

    with (run / "predictions.csv").open(encoding="utf-8", newline="") as table:
        return [row["id"] for row in csv.DictReader(table)][::100]
