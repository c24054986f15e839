"""Faithful INT8 on the CPU: may ONNX Runtime's integer kernels stand for what the graph says?

A Q/DQ graph defines its result: quantize, dequantize, compute in float. ONNX Runtime fuses that
into integer kernels, and some of them are wrong: on x86 without VNNI they add pairs of products
in 16 bits, which saturates (an output SQNR of 11 dB instead of 34 was measured). So each INT8
graph is run as written and with each kind of kernels on a probe, on the processor at hand, and
the fastest kind is taken that is no noisier than the graph as written.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeattn.artifacts import Manifest
from edgeattn.calibration.random_samples import random_array
from edgeattn.engine.base import TensorSpec
from edgeattn.engine.cpu import input_tensors
from edgeattn.engine.cpu_session import (
    Int8Arithmetic,
    open_session,
    runtime_errors,
    session_options,
)
from edgeattn.errors import EngineError
from edgeattn.graph.compare import finite_or_none, sqnr_db

# A difference of a hundredth of the signal is below what INT8 costs anyway: the best of the graphs
# measured stands at 34 dB from its float original.
FAITHFUL_DB = 40.0

# Faithful runs of deeper graphs are further apart. A sum that differs in its last float bit flips
# a quantized value now and then, and every later quantizer makes more of it, up to the rounding
# noise itself: on a Swin of 24 attentions, two runs in float (graph optimisations on and off) were
# 35 dB apart, each 36 dB from the graph without rounding. Flips make other noise, not more of it.
# So kernels may also be judged by their noise. Twice the energy is allowed: estimates from few
# outputs were up to 2.7 dB apart, while saturation costs 23 dB.
NOISE_MARGIN_DB = 3.0

# Sizes tried for dimensions that are free at run time, until the graph takes one.
_FREE_SIZES = (64, 224, 32, 16, 8, 1)

_KEEPS_VALUES = {"Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Pad"}
_QUANTIZED_RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}

# The fastest first.
_INTEGER_KERNELS: tuple[Int8Arithmetic, ...] = ("fused", "fused-precise")

_Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Verdict:
    """How near integer kernels come to what the graph says, on the output where they do worst.

    Attributes:
        difference_db: SQNR of their output against the output as written.
        kernels_db: SQNR of their output against the graph without rounding.
        written_db: The same of the output as written: the noise that rounding makes.
    """

    difference_db: float
    kernels_db: float
    written_db: float

    @property
    def margin_db(self) -> float:
        """How much better than needed they are; negative if they are not faithful."""
        if self.kernels_db == self.written_db:  # both may be infinite
            return NOISE_MARGIN_DB
        excess = self.kernels_db - self.written_db + NOISE_MARGIN_DB
        return max(self.difference_db - FAITHFUL_DB, excess)

    def __str__(self) -> str:
        return (
            f"{self.difference_db:.1f} dB from the graph as written, at {self.kernels_db:.1f} dB "
            f"of noise against its {self.written_db:.1f} dB"
        )


@dataclass(frozen=True)
class Int8Choice:
    """How an INT8 graph is computed, and why.

    Attributes:
        arithmetic: See `session_options`.
        reason: One sentence.
        verdict: On the kernels chosen, or on the last that were rejected; `None` if nothing ran.
    """

    arithmetic: Int8Arithmetic
    reason: str
    verdict: Verdict | None = None

    def to_report(self) -> dict[str, Any]:
        """Give the entries for an engine's manifest; an SQNR of equal outputs becomes null."""
        figures = ("difference_db", "kernels_db", "written_db")
        values = [getattr(self.verdict, name, None) for name in figures]
        names = ("int8_probe_sqnr_db", "int8_kernels_sqnr_db", "int8_written_sqnr_db")
        return {
            "int8_arithmetic": self.arithmetic,
            **dict(zip(names, map(_rounded, values), strict=True)),
            "int8_reason": self.reason,
        }


def is_quantized(model: onnx.ModelProto) -> bool:
    """Tell whether a graph quantizes anything."""
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)


def choose_arithmetic(
    data: bytes, manifest: Manifest, threads: int, weights_folder: Path | None = None
) -> Int8Choice:
    """Run an INT8 graph in every way on this processor and choose the fastest faithful one.

    Args:
        data: The ONNX graph.
        manifest: Manifest of its engine, which describes the inputs.
        threads: Threads to use.
        weights_folder: Where its external weights lie, if it has any.

    Raises:
        EngineError: If ONNX Runtime refuses the graph as written.
    """
    model = onnx.ModelProto.FromString(data)

    def open_as(arithmetic: Int8Arithmetic, graph: bytes = data) -> Any:
        return open_session(graph, session_options(threads, arithmetic), weights_folder)

    session = open_as("unfused")
    try:
        probe, written = _first_run(session, model, input_tensors(session, manifest))
    except EngineError as err:
        return Int8Choice("unfused", f"no probe runs, so nothing is known: {err.message}")
    exact = _run(open_as("unfused", without_rounding(model).SerializeToString()), probe)

    def attempt(arithmetic: Int8Arithmetic) -> Verdict | str:
        try:  # some releases trip over graphs that they run unfused
            return judge(written, _run(open_as(arithmetic), probe), exact)
        except EngineError as err:
            return err.message

    return choose(attempt)


def choose(attempt: Callable[[Int8Arithmetic], Verdict | str]) -> Int8Choice:
    """Choose the first faithful arithmetic, the fastest first.

    Args:
        attempt: Tries integer kernels: gives a verdict, or the message of their failure.
    """
    rejected, verdict = [], None
    for arithmetic in _INTEGER_KERNELS:
        result = attempt(arithmetic)
        if isinstance(result, str):
            rejected.append(f"{arithmetic} fails: {result}")
            continue
        verdict = result
        if result.margin_db >= 0:
            reason = "; ".join([*rejected, f"{arithmetic} is {result}"])
            return Int8Choice(arithmetic, reason, verdict)
        rejected.append(f"{arithmetic} is unfaithful: {result}")
    return Int8Choice("unfused", "; ".join(rejected), verdict)


def judge(written: _Outputs, fused: _Outputs, exact: _Outputs) -> Verdict:
    """Judge integer kernels by their outputs on a probe.

    Args:
        written: Outputs of the graph as written.
        fused: Outputs of the integer kernels.
        exact: Outputs of the graph without rounding.
    """
    verdicts = [
        Verdict(
            difference_db=sqnr_db(written[name], fused[name]),
            kernels_db=sqnr_db(exact[name], fused[name]),
            written_db=sqnr_db(exact[name], written[name]),
        )
        for name in written
    ]
    return min(verdicts, key=lambda verdict: verdict.margin_db)


def probe_inputs(
    model: onnx.ModelProto, inputs: Sequence[TensorSpec], free_size: int
) -> Iterator[dict[str, np.ndarray]]:
    """Draw inputs that spread over the range the graph was calibrated for, always the same ones.

    Args:
        model: The Q/DQ graph; its scales tell the range of an input, if anything quantizes it.
        inputs: Its inputs.
        free_size: Size of dimensions that are free, but for the first, the batch, which is 1.

    Yields:
        Twice: uniform and normal noise, noise at both ends of the range only, and a constant near
        one end, where neighbouring products have the same sign and saturate first.
    """
    ranges = {spec.name: _quantized_range(model, spec.name) for spec in inputs}
    for draw in range(8):
        arrays = {}
        for index, spec in enumerate(inputs):
            rng = np.random.default_rng([draw, index])
            shape = tuple(
                size if isinstance(size, int) else (1 if axis == 0 else free_size)
                for axis, size in enumerate(spec.shape)
            )
            bounds = ranges[spec.name]
            if bounds is None:
                arrays[spec.name] = random_array(spec, shape, rng)
            else:
                arrays[spec.name] = _spread(draw, bounds, shape, rng).astype(spec.dtype)
        yield arrays


def _spread(
    draw: int, bounds: tuple[float, float], shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    low, high = bounds
    kind = draw % 4
    if kind == 0:
        return rng.uniform(low, high, shape)
    if kind == 1:
        return np.clip(rng.normal((low + high) / 2, (high - low) / 6, shape), low, high)
    if kind == 2:
        return rng.choice([low, high], shape)
    return np.full(shape, 0.9 * (high if draw < 4 else low))


def without_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the quantization of activations by a clip to the same range.

    What remains differs from the graph by rounding alone. Pairs whose scale is computed or
    per-channel stay as they are.
    """
    exact = onnx.ModelProto()
    exact.CopyFrom(model)
    graph = exact.graph
    del graph.value_info[:]  # some of the types written there change
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers = _readers(graph)
    kept = {output.name for output in graph.output}
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants:
            continue
        bounds = _bounds(node, constants)
        dequantizers = readers[node.output[0]]
        if bounds is None or node.output[0] in kept:
            continue
        if any(reader.op_type != "DequantizeLinear" for reader in dequantizers):
            continue
        names = [f"{node.output[0]}.{end}" for end in ("low", "high")]
        dtype = numpy_helper.to_array(constants[node.input[1]]).dtype
        graph.initializer.extend(
            numpy_helper.from_array(np.array(bound, dtype), name)
            for bound, name in zip(bounds, names, strict=True)
        )
        _become(node, "Clip", [node.input[0], *names])
        for reader in dequantizers:
            _become(reader, "Identity", [reader.input[0]])
    return exact


def _become(node: onnx.NodeProto, op_type: str, inputs: list[str]) -> None:
    node.CopyFrom(helper.make_node(op_type, inputs, list(node.output), name=node.name))


def _bounds(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> tuple[float, float] | None:
    """Range that a QuantizeLinear node can represent; `None` unless its one scale is constant."""
    if any(name and name not in constants for name in node.input[1:]):
        return None
    scale = numpy_helper.to_array(constants[node.input[1]])
    has_zero_point = len(node.input) > 2 and node.input[2] != ""
    zero_point = numpy_helper.to_array(constants[node.input[2]]) if has_zero_point else np.uint8(0)
    limits = _QUANTIZED_RANGES.get(zero_point.dtype.name)
    if scale.size != 1 or limits is None:
        return None
    step, zero = float(scale.item()), int(zero_point.item())
    return (limits[0] - zero) * step, (limits[1] - zero) * step


def _quantized_range(model: onnx.ModelProto, name: str) -> tuple[float, float] | None:
    """Range of the first quantizer that a graph input reaches unchanged; `None` without one."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = _readers(model.graph)
    waiting = [name]
    while waiting:
        for node in readers[waiting.pop()]:
            if node.op_type == "QuantizeLinear":
                return _bounds(node, constants)
            if node.op_type in _KEEPS_VALUES:
                waiting.append(node.output[0])
    return None


def _readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def _first_run(
    session: Any, model: onnx.ModelProto, inputs: Sequence[TensorSpec]
) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Find sizes that the graph runs with; give the probe and its outputs."""
    has_free_size = any(isinstance(size, str) for spec in inputs for size in spec.shape[1:])
    *sizes, last = _FREE_SIZES if has_free_size else (1,)
    for size in sizes:
        probe = list(probe_inputs(model, inputs, size))
        with contextlib.suppress(EngineError):
            return probe, _run(session, probe)
    probe = list(probe_inputs(model, inputs, last))
    return probe, _run(session, probe)


def _run(session: Any, probe: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Run every draw; the outputs of all are put side by side, flat."""
    names = [output.name for output in session.get_outputs()]
    with runtime_errors("the graph does not run"):
        results = [session.run(names, dict(arrays)) for arrays in probe]
    return {
        name: np.concatenate([np.ravel(result[i]) for result in results])
        for i, name in enumerate(names)
    }


def _rounded(value: float | None) -> float | None:
    finite = finite_or_none(value)
    return None if finite is None else round(finite, 2)
