"""A file of weights on this machine: which network is it for?

By the name that the user gives; else by the file's own name, torchvision's or timm's; else by what the file says
itself; else by its tensors, where they fit one network alone. Preprocessing that nothing tells is timm's for it.
"""

import re
from pathlib import Path

from graftage.errors import BackboneError
from graftage.features.facts import Origin, file_hash, require_same
from graftage.features.recognise import Shapes, is_counted, nearest, recognised
from graftage.features.torchvision_files import published, usual
from graftage.features.transformers_files import family_of, from_transformers
from graftage.features.weight_files import read_file


def origin_of_file(path: Path, architecture: str | None) -> Origin:
    """What is known of a local file's weights, above all the timm name of their network.

    Args:
        path: a .safetensors file, or one of PyTorch's.
        architecture: timm's name, or None to find out.

    Raises:
        BackboneError: it cannot be told; says which networks it may be, or which is nearest.
    """
    if architecture:
        if not _is_timms(architecture):
            raise _unknown(path, architecture)
        return Origin(architecture)
    return _told_by_name(path) or _told_by_tensors(path)


def _unknown(path: Path, name: str, more: str = "") -> BackboneError:
    return BackboneError(
        f"{path}: say which network these weights belong to with --architecture NAME; {name!r} is no timm name{more}"
    )


def _is_timms(name: str) -> bool:
    import timm

    return bool(timm.is_model(name.split(".")[0]))


def _told_by_name(path: Path) -> Origin | None:
    return published(path, file_hash(path)) or (Origin(path.stem) if _is_timms(path.stem) else None)


def _told_by_tensors(path: Path) -> Origin:
    """The network that a file is for, by what it says itself or by its tensors."""
    file = read_file(path, outline=True)
    if _is_timms(file.architecture):
        return Origin(file.architecture)
    shapes = {n: tuple(t.shape) for n, t in from_transformers(file.tensors).items()}
    names, family = recognised(shapes), family_of(file.tensors)
    if family:
        names = [name for name in names if re.fullmatch(family.architectures, name)]
    if len(names) == 1:
        (name,) = names
        return usual(name.removeprefix("torchvision/")) if "/" in name else Origin(name)
    if names:
        raise BackboneError(
            f"{path}: these tensors fit networks that differ in what tensors do not tell, such as activation, padding "
            f"or preprocessing; say which with --architecture NAME: {', '.join(names)}"
        )
    raise _unknown(path, path.stem, f", and no network known has just these tensors{_nearest(shapes, path)}")


def _nearest(shapes: Shapes, path: Path) -> str:
    if not (near := nearest(shapes)):
        return ""
    try:
        require_same(near.wanted, {n: s for n, s in shapes.items() if is_counted(n)}, str(path))
    except BackboneError as error:
        return f". Nearest is {near.architecture}, with {near.share:.0%} of the tensors in common; {error}"
    return f". Nearest is {near.architecture}"
