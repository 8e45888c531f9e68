"""What an OpenVINO graph leaves behind: nothing in the process's memory, nothing in its environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from graftage.features import graph

KEPT = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"

# 40 graphs of 10 convolutions each, all of different sizes, opened and let go one after the other: by how many MiB the
# process's own memory grows after the first five
GROWTH = """
import re, sys, tempfile
from pathlib import Path
import numpy as np
import openvino
from openvino import opset8 as ops
from graftage.features.graph import Requests

def write(i, path):
    picture = ops.parameter([1, 16, 16, 3], np.uint8)
    x = ops.transpose(ops.convert(picture, "f32"), [0, 3, 1, 2])
    width = 3
    for j in range(10):
        kernel = np.full((8 + i + j, width, 3, 3), 0.01, np.float32)
        x = ops.relu(ops.convolution(x, kernel, [1, 1], [1, 1], [1, 1], [1, 1]))
        width = 8 + i + j
    mean = ops.reduce_mean(x, np.array([2, 3]), False)
    openvino.save_model(openvino.Model([mean], [picture]), path, compress_to_fp16=False)

def own():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

with tempfile.TemporaryDirectory() as folder:
    for i in range(40):
        path = Path(folder) / f"{i}.xml"
        write(i, path)
        Requests(path, "float32", streams=2)(np.zeros((1, 16, 16, 3), np.uint8))
        if i == 4:
            before = own()
    print(own() - before)
"""


def growth(**environment: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return float(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_graphs_that_are_gone_leave_no_compiled_code() -> None:
    assert growth() < 3.5
    assert growth(**{KEPT: "1024"}) > 5  # what OpenVINO does by itself, and a user may still ask for


def test_the_environment_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEPT, raising=False)
    for value in (None, "7"):
        if value is not None:
            monkeypatch.setenv(KEPT, value)
        with pytest.raises(graph.Damaged):
            graph.Requests(tmp_path / "no.xml", "float32", streams=1)
        assert os.environ.get(KEPT) == value
