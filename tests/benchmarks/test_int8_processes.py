"""Jobs of the INT8 benchmarks: one process each, its memory watched and limited."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.int8_tools import Job, read_batches
from benchmarks.processes import available_mib, python_for, run_job, tree_mib
from edgeattn.graph.files import load_graph
from tests.quantization import block, floats


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A small transformer block, six samples and no tool."""
    graph, samples = tmp_path / "graph.onnx", tmp_path / "samples.npy"
    onnx.save(block(), graph)
    np.save(samples, floats(6, 4, 8))
    return Job("floor", "", str(graph), str(samples), 6, str(tmp_path / "int8.onnx"))


def with_tool(job: Job, tool: str, method: str = "", **changes: object) -> Job:
    return Job(**(vars(job) | {"tool": tool, "method": method} | changes))


def test_rows_are_read_batch_by_batch_and_a_rest_is_left_out(tmp_path: Path) -> None:
    rows = floats(7, 2, 3)
    np.save(tmp_path / "rows.npy", rows)
    batches = list(read_batches(tmp_path / "rows.npy", 5, 2))
    assert [batch.shape for batch in batches] == [(2, 2, 3)] * 2
    np.testing.assert_array_equal(np.concatenate(batches), rows[:4])


@pytest.mark.parametrize("array", [np.zeros((3, 2)), np.zeros((2, 2), np.float32)])
def test_other_types_and_too_few_rows_are_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "rows.npy", array)
    with pytest.raises(ValueError, match="expected 3 rows of float32"):
        list(read_batches(tmp_path / "rows.npy", 3, 1))


def test_the_floor_runs_the_samples_and_writes_nothing(job: Job) -> None:
    result = run_job(job)
    assert "failed" not in result
    assert result["seconds"] > 0
    assert not Path(job.output).exists()


@pytest.mark.parametrize(("tool", "method"), [("edgeattn", "minmax"), ("onnxruntime", "minmax")])
def test_a_tool_writes_a_quantized_graph(job: Job, tool: str, method: str) -> None:
    result = run_job(with_tool(job, tool, method))
    assert "failed" not in result
    assert result["peak_mib"] >= result["imported_mib"] > 0
    ops = {node.op_type for node in load_graph(job.output).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops


def test_options_reach_edgeattn(job: Job) -> None:
    result = run_job(with_tool(job, "edgeattn", "minmax", options={"keep_float": ["no such node"]}))
    assert "no such node" in result["failed"]


def test_what_a_tool_raises_is_the_result(job: Job) -> None:
    result = run_job(with_tool(job, "edgeattn", "no such method"))
    assert "no such method" in result["failed"]
    assert result["seconds"] > 0


def test_a_process_that_dies_says_how(job: Job, tmp_path: Path) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho out of luck >&2\nkill -KILL $$\n")
    dying.chmod(0o755)
    assert run_job(job, python=dying)["failed"] == "ended by SIGKILL; out of luck"


def test_a_process_that_takes_too_long_is_ended(job: Job, tmp_path: Path) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    assert run_job(job, python=slow, timeout_s=0.2)["failed"].startswith("ended by SIGKILL")


def test_more_memory_than_allowed_is_a_failure_and_not_a_full_machine(
    job: Job, tmp_path: Path
) -> None:
    np.save(tmp_path / "large.npy", np.zeros((2, 4, 8 << 20), np.float32))
    result = run_job(
        with_tool(job, "floor", samples=str(tmp_path / "large.npy"), count=1, memory_limit_mib=64)
    )
    assert "failed" in result


def test_the_memory_of_children_counts() -> None:
    hold = "import time; held = bytearray(200 << 20); print(1, flush=True); time.sleep(60)"
    spawn = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); "
        "sys.stdin.read(); child.kill(); child.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", spawn, hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()  # the child holds its memory
        assert 200 < tree_mib(parent.pid) < available_mib()
        parent.communicate(b"")


def test_a_process_that_is_gone_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert tree_mib(process.pid) == 0


def test_modelopt_runs_in_its_own_environment(job: Job, tmp_path: Path) -> None:
    assert python_for("modelopt") != python_for("onnxruntime") == Path(sys.executable)
    result = run_job(job, python=tmp_path / "python")
    assert "make peers" in result["failed"]
