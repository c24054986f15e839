"""A Jetson as its own board: an engine of TensorRT with the plugin, over SSH to itself.

It takes minutes: pycuda and the plugin are compiled. What the environment of these tests has not,
pip fetches.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeattn.artifacts import Manifest, read_json
from edgeattn.bundle.write import write_bundle
from edgeattn.deploy.deploy import Reach, deploy
from edgeattn.deploy.remote_doctor import examine_board
from edgeattn.deploy.selftest import write_graph
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.profiling.report import read_report
from tests.edgeattn.deploy.sshd import boards

pytestmark = [
    pytest.mark.jetson,
    pytest.mark.tensorrt,
    pytest.mark.slow,
    pytest.mark.ssh,
]


def test_a_jetson_builds_verifies_and_measures_what_it_is_sent(tmp_path: Path) -> None:
    least, best, most = ({"tokens": (size, 14, 14, 96)} for size in (1, 2, 4))
    shapes = ShapeProfile(min=least, opt=best, max=most)
    write_bundle(
        write_graph(tmp_path / "net.onnx"),
        tmp_path / "net.zip",
        engine="tensorrt",
        plugin="source",
        tensorrt=TensorRtRequest(options=TensorRtOptions(profiles=(shapes,))),
    )
    with boards(tmp_path, "here") as ((board,), config):
        before = board.listing()
        reach = Reach(ssh_config=config)
        (done,) = deploy(["here"], tmp_path / "net.zip", reach=reach, output=tmp_path / "back")
        assert done.error is None, done.error.message
        folder = tmp_path / "back" / "here"
        manifest = Manifest.from_dict(read_json(folder / "model.engine.json", "it"), "it")
        assert manifest.target == "tensorrt"
        assert manifest.report["seal"]["golden"][0]["verdict"] == "ok"
        assert (board.root / "current" / "model.plugin.so").is_file()
        assert read_report(folder / "model.profile.json").inputs == {"tokens": (2, 14, 14, 96)}
        found = examine_board("here", reach, selftest=True)
        assert found["passed"], json.dumps(found)
        assert board.listing() == before
