"""What a typed graph should compute: on the CPU, as written, and without the rounding of its types.

The distance between the two is the noise that the graph's own precision makes, on the inputs at
hand. It tells how far another engine may be off: a fixed tolerance is too wide for one model and
too narrow for the next.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeattn.artifacts import Manifest
from edgeattn.engine.base import check_inputs
from edgeattn.engine.cpu import CpuEngine
from edgeattn.engine.cpu_int8 import is_quantized, without_rounding
from edgeattn.engine.cpu_lowering import lower_for_cpu
from edgeattn.graph.constants import constant_tensors
from edgeattn.graph.files import MAX_INLINE_BYTES, input_specs, weights_bytes, write_graph
from edgeattn.graph.finite import check_finite
from edgeattn.graph.half_types import HALF_TYPES
from edgeattn.graph.names import FreshNames
from edgeattn.graph.passes.emulate_half import half_types_of

Arrays = Mapping[str, NDArray[Any]]

_BFLOAT16 = "bfloat16"

# What counts is that an engine is not worse than the precision that its user asked for. Against the
# exact outputs, other faithful implementations (ONNX Runtime's integer kernels, its own FP16) made
# 0.1 to 1.9 times the noise of the graph as written: five models of the registry, eight samples, up
# to six seeds; a slow test in tests/edgeattn/engine/test_reference.py repeats three of the models.
NOISE_FACTOR = 3.0


class Distance(NamedTuple):
    """How far one set of outputs is from another, as parts of the reference's root mean square.

    Attributes:
        rms: Root mean square of the difference in the sample where it is largest.
        peak: Largest difference of one element.
    """

    rms: float
    peak: float

    def fits(self, bound: Distance) -> bool:
        """Tell whether neither part is above the bound's."""
        return self.rms <= bound.rms and self.peak <= bound.peak

    def __str__(self) -> str:
        return f"{100 * self.rms:.2g} % (one element {100 * self.peak:.2g} %)"


class Floor(NamedTuple):
    """Smallest tolerance for a precision, and why."""

    bound: Distance
    reason: str


# Below these nothing is told apart, however little noise the graph makes on the inputs at hand.
FLOORS: dict[str, Floor] = {
    "fp32": Floor(
        Distance(1e-4, 1e-3),
        "sums in another order: one float32 step, 1e-7, grows about a hundredfold on its way",
    ),
    "tf32": Floor(
        Distance(4e-3, 4e-2),
        "TensorRT's default for float32: products of numbers of 11 bits as FP16 has, which the "
        "hardware may cut off instead of rounding",
    ),
    "fp16": Floor(
        Distance(2e-3, 2e-2),
        "one rounding costs 2^-11; a network of them was measured at up to 9e-4",
    ),
    "bf16": Floor(Distance(1.6e-2, 1.6e-1), "three bits fewer than FP16: eight times as much"),
    "int8": Floor(Distance(1e-2, 1e-1), "one step of a scale that covers the output is 1/127"),
}


@dataclass(frozen=True)
class Expected:
    """What a graph yields for one query.

    Attributes:
        written: Outputs by name, each result rounded to the type that the graph gives it.
        exact: The same without the rounding of activations to INT8, FP16 or BF16.
    """

    written: dict[str, NDArray[Any]]
    exact: dict[str, NDArray[Any]]

    def tolerance(self, name: str, precisions: Sequence[str]) -> Distance:
        """Say how far an engine's output may be from `exact`.

        Args:
            name: The output.
            precisions: Keys of `FLOORS`: those of the graph and of the engine.
        """
        noise = distance(self.exact[name], self.written[name])
        floors = [FLOORS[precision].bound for precision in precisions]
        return Distance(
            max(NOISE_FACTOR * noise.rms, *(floor.rms for floor in floors)),
            max(NOISE_FACTOR * noise.peak, *(floor.peak for floor in floors)),
        )


class Reference:
    """A typed graph in ONNX Runtime, as written and without rounding. Close it after use.

    Args:
        model: The graph, attention nodes included; not changed.

    Raises:
        EngineError: If ONNX Runtime refuses the graph.
        GraphError: If an attention node is malformed, or a weight is NaN or infinite.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        check_finite(model)
        self.precisions = precisions_of(model)
        described = {spec.name: spec for spec in input_specs(model)}
        plain, self._half = _without_half_io(model)
        lowered = lower_for_cpu(plain)
        self._written = _open(lowered)
        self._exact = None
        if self.precisions != ("fp32",):
            self._exact = _open(without_rounding(_without_half_rounding(_inlined(lowered))))
        self.inputs, self.outputs = (
            tuple(
                replace(
                    spec,
                    dtype=_BFLOAT16 if spec.name in self._half else spec.dtype,
                    preprocess=described[spec.name].preprocess if spec.name in described else None,
                )
                for spec in specs
            )
            for specs in (self._written.inputs, self._written.outputs)
        )

    def run(self, inputs: Arrays) -> Expected:
        """Run one query.

        Raises:
            DataError: If the inputs do not fit the graph.
            EngineError: If ONNX Runtime fails, as it does on sizes that the graph cannot take.
        """
        inputs = {
            name: array.astype(np.float32) if name in self._half else array
            for name, array in check_inputs(self.inputs, inputs).items()
        }
        written = self._written.run(inputs)
        return Expected(written, self._exact.run(inputs) if self._exact else written)

    def close(self) -> None:
        """Free the sessions."""
        self._written.close()
        if self._exact:
            self._exact.close()

    def __enter__(self) -> Reference:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def precisions_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Name the precisions that a graph computes in: `int8`, `fp16`, `bf16`; else `fp32`."""
    halves = half_types_of(model)
    quantized = is_quantized(model) or any(
        value.type.tensor_type.elem_type == TensorProto.INT8 for value in model.graph.input
    )
    found = ["int8"] if quantized else []
    found += ["fp16"] if HALF_TYPES["float16"] in halves else []
    found += ["bf16"] if HALF_TYPES["bfloat16"] in halves else []
    return tuple(found) or ("fp32",)


def distance(reference: NDArray[Any], candidate: NDArray[Any]) -> Distance:
    """Measure how far an output is from its reference.

    Args:
        reference: Samples along axis 0, if it has axes.
        candidate: Of the same shape.

    Returns:
        Infinities if the shapes differ, or where one side alone is not finite.
    """
    if reference.shape != candidate.shape:
        return Distance(math.inf, math.inf)
    a, b = (np.atleast_1d(array).astype(np.float64) for array in (reference, candidate))
    # Infinities that agree, as of masked logits, do not differ.
    agree = (a == b) | (np.isnan(a) & np.isnan(b))
    difference = np.abs(np.subtract(a, b, where=~agree, out=np.zeros_like(a)))
    if not np.isfinite(difference).all():
        return Distance(math.inf, math.inf)
    if not difference.any():
        return Distance(0.0, 0.0)
    finite = a[np.isfinite(a)]
    size = math.sqrt(float(np.mean(np.square(finite)))) if finite.size else 0.0
    if size == 0.0:
        return Distance(math.inf, math.inf)
    by_sample = np.sqrt(np.mean(np.square(difference.reshape(len(a), -1)), axis=1))
    return Distance(float(by_sample.max()) / size, float(difference.max()) / size)


def _open(model: onnx.ModelProto) -> CpuEngine:
    """Open a graph of standard operators whose Q/DQ nodes compute as they say."""
    arithmetic = {"int8_arithmetic": "unfused"} if is_quantized(model) else {}
    manifest = Manifest("engine", target="cpu", report=arithmetic)
    if weights_bytes(model) <= MAX_INLINE_BYTES:
        return CpuEngine(model.SerializeToString(), manifest)
    apart = onnx.ModelProto()
    apart.CopyFrom(model)
    with tempfile.TemporaryDirectory(prefix="edgeattn-") as folder:
        file, data = Path(folder, "net.onnx"), Path(folder, "net.onnx.data")
        write_graph(apart, file, data, data.name)
        return CpuEngine(file.read_bytes(), manifest, weights_folder=Path(folder))


def _without_half_io(model: onnx.ModelProto) -> tuple[onnx.ModelProto, set[str]]:
    """Let BF16 inputs and outputs be float32, which ONNX Runtime can pass on, cast at the borders.

    Returns:
        The graph, and the names of those tensors.
    """
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    weights = {tensor.name for tensor in graph.initializer}
    names = FreshNames(graph)
    found: set[str] = set()
    for values, is_input in ((graph.input, True), (graph.output, False)):
        for value in values:
            kind = value.type.tensor_type
            if kind.elem_type != TensorProto.BFLOAT16 or value.name in weights:
                continue
            inner = names.new(f"{value.name}/bfloat16")
            for node in graph.node:
                for ends in (node.input, node.output):
                    for k, name in enumerate(ends):
                        if name == value.name:
                            ends[k] = inner
            source, to = (value.name, inner) if is_input else (inner, value.name)
            element = TensorProto.BFLOAT16 if is_input else TensorProto.FLOAT
            cast = helper.make_node("Cast", [source], [to], name=names.new(to), to=element)
            graph.node.insert(0 if is_input else len(graph.node), cast)
            kind.elem_type = TensorProto.FLOAT
            found.add(value.name)
    return plain, found


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn Constant nodes into initializers, where scales are looked for."""
    inlined = onnx.ModelProto()
    inlined.CopyFrom(model)
    graph = inlined.graph
    stored = {tensor.name for tensor in graph.initializer}
    for name, tensor in constant_tensors(graph).items():
        if name not in stored:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = name
            node = next(node for node in graph.node if name in node.output)
            graph.node.remove(node)
    return inlined


def _without_half_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the rounding that `emulate_half` wrote into a graph.

    A cast to a half type that only casts back to float32 read becomes nothing; weights stay as they
    are, and so do outputs of a half type.
    """
    exact = onnx.ModelProto()
    exact.CopyFrom(model)
    kept = {output.name for output in exact.graph.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in exact.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    halves = set(HALF_TYPES.values())
    for node in exact.graph.node:
        if node.op_type != "Cast" or node.attribute[0].i not in halves:
            continue
        output = node.output[0]
        if output not in kept and all(_widens(reader) for reader in readers.get(output, [])):
            node.attribute[0].i = TensorProto.FLOAT
    del exact.graph.value_info[:]  # some of the types written there changed
    return exact


def _widens(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT)
