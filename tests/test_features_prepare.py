"""A process of its own makes a network's graph, while this one does something else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from graftage.features.backbone import find
from graftage.features.engine import is_prepared, probe_squares
from graftage.features.prepare import prepare_elsewhere


def test_what_is_done_meanwhile_is_done_once_and_its_fault_ends_the_other_process(
    weights_file: Callable[[str], Path], fresh_cache: Path
) -> None:
    backbone, squares = find(str(weights_file("test_resnet"))), lambda: probe_squares(160)[:1]

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_elsewhere(backbone, "", squares, interrupted)
    assert not is_prepared(backbone, backbone.preprocess)
    found: list[bool] = []
    for _ in range(2):
        prepare_elsewhere(backbone, "", squares, lambda: found.append(is_prepared(backbone, backbone.preprocess)))
        assert is_prepared(backbone, backbone.preprocess)
    assert found == [False]  # the second time there was nothing to make
