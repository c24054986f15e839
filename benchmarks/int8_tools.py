"""Quantize a graph with one tool, in a process of its own: what the INT8 benchmarks start.

    python benchmarks/int8_tools.py JOB.json

A job says what to do with which tool, a line of JSON on stdout what came of it. The file imports
nothing but numpy before it knows the tool: it runs in edgeattn's environment and in that of
nvidia-modelopt, which pins older packages and has no edgeattn.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Job:
    """What one process does.

    Attributes:
        tool: `floor` (run the samples, nothing else), `edgeattn`, `onnxruntime` or `modelopt`.
        method: How the tool finds ranges; empty for the floor.
        graph: A float graph with one input. Tools other than edgeattn know no attention node.
        samples: A `.npy` file, `[samples, ...]` float32, read row by row.
        count: Samples to use, the first ones.
        output: The quantized graph to write.
        batch_size: Samples per batch; one that the graph fixes is given here too.
        options: Further arguments of `edgeattn.quantize`.
        memory_limit_mib: Address space that the process may take; any if 0.
    """

    tool: str
    method: str
    graph: str
    samples: str
    count: int
    output: str
    batch_size: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    memory_limit_mib: int = 0

    def to_json(self) -> str:
        """Write the job down."""
        return json.dumps(asdict(self))


Result = dict[str, Any]


def read_batches(path: str | Path, count: int, batch_size: int) -> Iterator[np.ndarray]:
    """Read rows of a `.npy` file from the disk as they are needed: nothing else stays in memory.

    Args:
        path: A file of float32 in C order.
        count: Rows to read, the first ones.
        batch_size: Rows at a time; a rest is left out.

    Raises:
        ValueError: If the file is no such array, or has too few rows.
    """
    with Path(path).open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        if fortran_order or dtype != np.float32 or shape[0] < count:
            raise ValueError(f"{path} holds {dtype} {shape}; expected {count} rows of float32")
        row = int(np.prod(shape[1:]))
        for _ in range(count // batch_size):
            batch = np.fromfile(stream, np.float32, batch_size * row)
            yield batch.reshape(batch_size, *shape[1:])


def input_name(graph: str) -> str:
    """Name the graph's input."""
    import onnx

    model = onnx.load(graph, load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    (name,) = [value.name for value in model.graph.input if value.name not in weights]
    return name


class Reader:
    """Batches as onnxruntime and modelopt ask for them."""

    def __init__(self, job: Job) -> None:
        self._name = input_name(job.graph)
        self._job = job
        self.rewind()

    def rewind(self) -> None:
        """Start again."""
        job = self._job
        self._batches = read_batches(job.samples, job.count, job.batch_size)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Give the next batch by input name; `None` at the end."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}

    def get_first(self) -> dict[str, np.ndarray]:
        """Give the first batch again."""
        job = self._job
        return {self._name: next(read_batches(job.samples, job.count, job.batch_size))}


def run_floor(job: Job) -> Callable[[], Result]:
    """Run the samples through ONNX Runtime with its defaults."""
    import onnxruntime as ort

    def work() -> Result:
        session = ort.InferenceSession(job.graph, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for batch in read_batches(job.samples, job.count, job.batch_size):
            session.run(None, {name: batch})
        return {}

    return work


def run_edgeattn(job: Job) -> Callable[[], Result]:
    """Calibrate and quantize."""
    import edgeattn
    from edgeattn.calibration.table import CalibTable

    def work() -> Result:
        start = time.perf_counter()
        table = edgeattn.calibrate(
            job.graph,
            read_batches(job.samples, job.count, job.batch_size),
            Path(job.output).with_suffix(".calib.json"),
            method=job.method,
            batch_size=job.batch_size,
        )
        calibrated = time.perf_counter()
        edgeattn.quantize(job.graph, job.output, table=table, **job.options)
        tensors = len(CalibTable.load(table).tensors)
        return {"tensors": tensors, "calibrate_s": calibrated - start}

    return work


def run_onnxruntime(job: Job) -> Callable[[], Result]:
    """Quantize as onnxruntime's documentation says for TensorRT: QDQ, symmetric, per channel.

    Two things are asked of it that it would not do by itself, both in its favour: no operators
    but Conv, Gemm and MatMul, and a scale per channel of the weights.
    """
    from onnxruntime import quantization

    methods = {
        "minmax": quantization.CalibrationMethod.MinMax,
        "entropy": quantization.CalibrationMethod.Entropy,
        "percentile": quantization.CalibrationMethod.Percentile,
    }

    def work() -> Result:
        quantization.quantize_static(
            job.graph,
            job.output,
            Reader(job),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=methods[job.method],
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
        )
        return {}

    return work


def run_modelopt(job: Job) -> Callable[[], Result]:
    """Quantize as nvidia-modelopt does by default, but on the CPU and with the rest in FP32."""
    from modelopt.onnx.quantization import quantize

    def work() -> Result:
        quantize(
            job.graph,
            quantize_mode="int8",
            calibration_method=job.method,
            calibration_data_reader=Reader(job),
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=job.output,
        )
        return {}

    return work


TOOLS = {
    "floor": run_floor,
    "edgeattn": run_edgeattn,
    "onnxruntime": run_onnxruntime,
    "modelopt": run_modelopt,
}


def run(job: Job) -> Result:
    """Do a job.

    Returns:
        `seconds` of the work, imports excluded; `peak_mib`, the most that this process held, and
        `imported_mib`, what it held before the work; `failed`, one line, if the tool gave up.
    """
    work = TOOLS[job.tool](job)
    imported = peak_mib()
    if job.memory_limit_mib:
        limit = job.memory_limit_mib << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    start = time.perf_counter()
    try:
        result = work()
    except (Exception, MemoryError) as err:
        line = next(iter(str(err).splitlines()), "")
        result = {"failed": f"{type(err).__name__}: {line}"[:300]}
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mib": peak_mib(), "imported_mib": imported} | result


def peak_mib() -> float:
    """Give the most memory that this program has held.

    Not from `getrusage`: what the parent held at the fork counts there.
    """
    status = Path("/proc/self/status").read_text()
    (kib,) = re.findall(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return int(kib) / 1024


def main() -> None:
    """Read the job, do it, print the result; whatever a tool prints goes to stderr."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    logging.disable(logging.WARNING)
    result_stream = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with contextlib.redirect_stdout(sys.stderr):
        result = run(job)
    result_stream.write(json.dumps(result) + "\n")
    result_stream.close()


if __name__ == "__main__":
    main()
