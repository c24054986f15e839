"""How much a quantized graph's outputs lose against the float graph's, on given samples.

ONNX Runtime computes what the graph says: its integer kernels, which saturate on some processors,
are off (an output SQNR of 34 dB was read as 11 with them), so that a figure is the graph's own on
every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from edgeattn.calibration.session import open_session, refused
from edgeattn.calibration.sources import Array
from edgeattn.errors import DataError, GraphError
from edgeattn.graph.compare import compare_arrays, noise_energies, top1_accuracy
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.emulate_half import emulate_half

# Of samples per batch, and of their bytes: more saves no time on large images, only costs memory.
BATCH_SIZE = 8
BATCH_BYTES = 2 << 20

Arrays = Mapping[str, Array]


class OutputJudge:
    """Compares graphs with a float graph on the same samples.

    Args:
        model: The float graph; attention nodes are fine. Not kept.
        samples: Inputs by name, samples along axis 0.

    Attributes:
        reference: The float graph's outputs by name, samples along axis 0.

    Raises:
        DataError: If the samples do not fit the graph.
        GraphError: If ONNX Runtime does not run it, or an output's error cannot be measured.
    """

    def __init__(self, model: onnx.ModelProto, samples: Arrays) -> None:
        self._samples = samples
        self.reference = SampleSession(decompose(model)).run(samples)

    def outputs(self, model: onnx.ModelProto) -> dict[str, Array]:
        """Run a graph on the samples.

        Raises:
            GraphError: If ONNX Runtime does not run it.
        """
        return SampleSession(emulate_half(decompose(model))).run(self._samples)

    def sqnr_db(self, model: onnx.ModelProto) -> float:
        """Measure a graph's outputs; see `output_sqnr_db`.

        Raises:
            GraphError: If ONNX Runtime does not run it.
        """
        return output_sqnr_db(self.reference, self.outputs(model))


class SampleSession:
    """A graph open in ONNX Runtime, and any number of samples through it.

    Args:
        model: Standard operators only. Initializers that are graph inputs too can be given other
            values in each run.

    Raises:
        GraphError: If ONNX Runtime does not load it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = open_session(model)
        # Sequences and maps have no error that could be measured.
        self._outputs = [
            output.name
            for output in self._session.get_outputs()
            if output.type.startswith("tensor(")
        ]
        inputs = self._session.get_inputs()
        self._inputs = [spec.name for spec in inputs]
        self._halves = {spec.name for spec in inputs if spec.type == "tensor(float16)"}
        fixed = [spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)]
        self._fixed = fixed[0] if fixed else None

    def run(self, samples: Arrays, constants: Arrays | None = None) -> dict[str, Array]:
        """Run samples in batches; a batch of fixed size is filled up with the last sample.

        Args:
            samples: Inputs by name, samples along axis 0.
            constants: Values of initializers for this run.

        Returns:
            Outputs by name, samples along axis 0. What has no such axis, and is of the same shape
            in each run, has the runs along a new axis 0.

        Raises:
            DataError: If the samples do not fit the graph.
            GraphError: If ONNX Runtime fails, or an output varies in shape.
        """
        count = _count(samples, self._inputs)
        sample_bytes = sum(samples[name][:1].nbytes for name in self._inputs)
        size = min(max(BATCH_BYTES // max(sample_bytes, 1), 1), BATCH_SIZE)
        runs = self._run(samples, constants or {}, count, self._fixed or size)
        if self._fixed is None and not all(run.has_rows for run in runs):
            runs = self._run(samples, constants or {}, count, 1)
        results = {name: [run.outputs[i] for run in runs] for i, name in enumerate(self._outputs)}
        if any(arrays[0].dtype.kind == "f" for arrays in results.values()):
            # Beside floats nobody judges integers; those of detectors are as many as they find.
            results = {
                name: arrays
                for name, arrays in results.items()
                if arrays[0].dtype.kind == "f" or not _vary_in_shape(arrays, runs)
            }
        return {name: _joined(name, arrays, runs, count) for name, arrays in results.items()}

    def _run(self, samples: Arrays, constants: Arrays, count: int, size: int) -> list[_Run]:
        runs = []
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)
            if self._fixed is None:
                rows = rows[: count - start]
            feeds = {name: samples[name][rows] for name in self._inputs} | dict(constants)
            feeds |= {name: feeds[name].astype(np.float16) for name in self._halves}
            try:
                runs.append(_Run(len(rows), self._session.run(self._outputs, feeds)))
            except Exception as err:  # onnxruntime's errors share no class
                raise refused("run", err) from err
        return runs


@dataclass(frozen=True)
class _Run:
    """Outputs of one batch."""

    rows: int
    outputs: list[Array]

    @property
    def has_rows(self) -> bool:
        """Tell whether each output has one row per sample."""
        return all(array.shape[:1] == (self.rows,) for array in self.outputs)


def output_sqnr_db(reference: Arrays, candidate: Arrays) -> float:
    """Give the worst signal to quantization noise ratio of all outputs, in dB.

    Centred: what the mean over samples explains is no signal, so that a large constant cannot
    flatter. Not centred where the samples are fewer than two or the output is the same for all.
    Of outputs, those of floating point count, or all if there are none.

    Args:
        reference: Outputs of the float graph by name, samples along axis 0.
        candidate: Outputs of the quantized graph.

    Returns:
        Infinite if nothing was lost, minus infinite if everything was.
    """
    figures = []
    for name in _judged(reference):
        comparison = compare_arrays(reference[name], candidate[name], name)
        centred = comparison.centred_sqnr_db
        varies = centred is not None and _varies(reference[name])
        figures.append(centred if centred is not None and varies else comparison.sqnr_db)
    return min(figures, default=math.inf)


def sample_noise(reference: Arrays, candidate: Arrays) -> Array:
    """Measure the error of each sample.

    Args:
        reference: Outputs by name, samples along axis 0.
        candidate: Outputs to compare with them.

    Returns:
        `[samples]`: energy of the difference over the energy per sample of what varies in the
        reference, summed over the outputs that `output_sqnr_db` looks at.
    """
    total: Array = np.zeros(len(next(iter(reference.values()))))
    for name in _judged(reference):
        values = np.asarray(reference[name], np.float64)
        centre = values.mean(axis=0, keepdims=True) if _varies(values) else np.zeros_like(values)
        signal = float(noise_energies(values, np.broadcast_to(centre, values.shape)).mean())
        total += noise_energies(values, candidate[name]) / (signal or 1.0)
    return total


def output_top1(outputs: Arrays, labels: Array) -> float:
    """Give the accuracy, in percent, of the first output that has a row of classes per sample.

    Raises:
        DataError: If there is none, or the labels do not fit.
    """
    for array in outputs.values():
        if array.ndim == 2 and array.shape[1] > 1:
            return top1_accuracy(array, np.asarray(labels))
    raise DataError(
        "labels were given, but no output has the shape (samples, classes)",
        f"the outputs are {', '.join(outputs)}",
    )


def rows_of(arrays: Arrays, rows: Any) -> dict[str, Array]:
    """Take some of the samples of each array."""
    return {name: array[rows] for name, array in arrays.items()}


def _judged(reference: Arrays) -> list[str]:
    floats = [name for name, array in reference.items() if array.dtype.kind == "f"]
    return floats or list(reference)


def _varies(array: Array) -> bool:
    """Tell whether samples differ by more than float32's own rounding."""
    values = np.asarray(array, np.float64)
    finite = np.where(np.isfinite(values), values, 0.0)
    spread = float(np.max(np.abs(finite - finite.mean(axis=0)), initial=0.0))
    return spread > 1e-6 * float(np.max(np.abs(finite), initial=0.0))


def _count(samples: Arrays, inputs: list[str]) -> int:
    missing = [name for name in inputs if name not in samples]
    if missing:
        raise DataError(
            f"the samples have no array for the input {missing[0]}",
            f"expected arrays named {', '.join(inputs)}",
        )
    lengths = {name: len(samples[name]) for name in inputs}
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        raise DataError(f"the inputs have these numbers of samples: {lengths}; expected one number")
    return next(iter(lengths.values()))


def _are_of_samples(arrays: list[Array], runs: list[_Run]) -> bool:
    return all(a.shape[:1] == (run.rows,) for a, run in zip(arrays, runs, strict=True))


def _vary_in_shape(arrays: list[Array], runs: list[_Run]) -> bool:
    return len({array.shape[_are_of_samples(arrays, runs) :] for array in arrays}) > 1


def _joined(name: str, arrays: list[Array], runs: list[_Run], count: int) -> Array:
    if _vary_in_shape(arrays, runs):
        raise GraphError(
            f"the output {name} has another shape for each sample, so that its error cannot be "
            "measured",
            "leave this output out of the graph",
        )
    if _are_of_samples(arrays, runs):
        return np.concatenate(arrays)[:count]
    return np.stack(arrays)
