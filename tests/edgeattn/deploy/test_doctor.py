"""Examining a machine as a whole, recorded ones and this one."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from edgeattn.deploy.doctor import examine
from edgeattn.deploy.machine import Machine, Probe
from tests.edgeattn.deploy.boards import BOARD_NAMES, driver, recorded
from tests.tensorrt_bindings import bindings


@pytest.mark.parametrize("name", BOARD_NAMES)
def test_a_recorded_board_is_examined_from_end_to_end(name: str) -> None:
    machine = recorded(name, probes={"open_driver": driver(12060, 87)})
    said: list[tuple[int, int | None, str]] = []
    found = examine(machine, progress=lambda *args: said.append(args))
    assert found.board is not None
    assert {"JetPack", "power mode", "GPU clock", "Python", "disk"} <= {
        finding.topic for finding in found.findings
    }
    assert [finding.topic for finding in found.errors] == ["TensorRT"]  # it is not installed there
    assert [done for done, _, _ in said] == list(range(7))
    values = json.loads(json.dumps(found.to_dict()))
    assert values["passed"] is False
    assert values["board"]["model"].startswith("NVIDIA Jetson")


def test_this_machine_is_examined_without_an_error_of_ours() -> None:
    found = examine()
    assert all(finding.text for finding in found.findings)
    topics = {finding.topic: finding for finding in found.findings}
    assert topics["Python"].level == "ok"
    assert topics["packages"].level == "ok"
    assert {"driver", "TensorRT", "memory", "disk"} <= topics.keys()


def test_an_examination_imports_nothing_heavy_and_needs_nothing_optional() -> None:
    code = """
import sys
blocked = ("torch", "tensorrt", "pycuda", "onnxscript", "onnxsim", "safetensors", "elftools")
sys.modules.update(dict.fromkeys(blocked))
from edgeattn.deploy.doctor import examine
print(len(examine().findings))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"onnxruntime", "torch"}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    count, loaded = done.stdout.split("\n")[:2]
    assert int(count) >= 6
    assert loaded == "['torch']"  # the entry that blocks it


def test_commands_and_probes_that_fail_are_answers_too() -> None:
    machine = Machine()
    assert machine.run("no-such-command-of-any-machine") is None
    assert machine.run("false") is None
    assert machine.run("echo", "here") == "here\n"
    assert machine.probe("print('yes')") == Probe(True, "yes")
    assert machine.probe("raise ValueError('no')") == Probe(False, "ValueError: no")
    assert machine.probe("import os; os._exit(3)") == Probe(False, "exit code 3")
    killed = machine.probe("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert killed == Probe(False, "the process was killed by signal 11")
    assert machine.package("numpy")
    assert machine.package("no-such-package-of-anyone") is None
    assert machine.read("/no/such/file") is None


@pytest.mark.bindings
@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11", "11.4.0.106"])
def test_nvidias_own_bindings_are_examined(version: str) -> None:
    code = (
        "import json; from edgeattn.deploy.doctor import examine;"
        "print(json.dumps(examine().to_dict()))"
    )
    found = json.loads(bindings(version).run("-c", code))
    levels = {finding["topic"]: finding["level"] for finding in found["findings"]}
    texts = {finding["topic"]: finding["text"] for finding in found["findings"]}
    assert (levels["TensorRT"], texts["TensorRT"]) == ("ok", version)
    misread = int(np.__version__.partition(".")[0]) >= 2 and version == "10.3.0"
    assert levels["NumPy"] == ("error" if misread else "ok")


@pytest.mark.jetson
@pytest.mark.tensorrt
def test_this_board_has_no_errors() -> None:
    found = examine()
    assert found.board is not None
    assert not found.errors
