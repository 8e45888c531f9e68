"""`graftage backbones --download ID --to FOLDER` and `--from FOLDER`: networks for a machine without network."""

from pathlib import Path

from graftage.errors import OptionError
from graftage.features.cache import size_text
from graftage.features.carried import Carried, carry_in, carry_out
from graftage.progress import Silent, Watcher


def carry(
    *, download: str | None, to: Path | None, source: Path | None, watcher: Watcher | None = None
) -> tuple[str, ...]:
    """Carries a network out into a folder, or all networks of a folder in; returns what was done, for a person.

    Args:
        download: id of the network to carry out.
        to: the folder that receives it.
        source: the folder to bring in.
        watcher: told how downloads and copies go on, in megabytes.

    Raises:
        OptionError: flags that do not belong together.
        BackboneError: see `carry_out` and `carry_in`.
    """
    tell = _Teller(watcher or Silent())
    if download is not None and to is not None and source is None:
        carried = carry_out(download, to, tell)
        return (*_told(carried), f"on the other machine: graftage backbones --from {to}")
    if source is not None and download is None and to is None:
        brought = carry_in(source, tell)
        names = ", ".join(carried.id for carried in brought)
        return (*(line for carried in brought for line in _told(carried)), f"ready without network: {names}")
    raise OptionError("give --download ID with --to FOLDER, or --from FOLDER alone")


class _Teller:
    """Turns the progress of files into stages of a watcher that counts megabytes."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._name = ""

    def __call__(self, name: str, done: int, total: int) -> None:
        if name != self._name:
            self._name = name
            self._watcher.stage(f"{name}, MB")
        self._watcher.progress(round(done / 1e6), max(1, round(total / 1e6)))


def _told(carried: Carried) -> list[str]:
    files = [f"  {file.name:<20} {size_text(file.size):>10}  sha256 {file.sha256}" for file in carried.files]
    return [
        f"{carried.id}: revision {carried.revision[:12]} of {carried.repository}, licence {carried.licence}",
        *files,
        f"  in {carried.place}",
    ]
