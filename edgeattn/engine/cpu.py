"""The embedded default engine: ONNX Runtime on the CPU. It runs on a laptop and on every board."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgeattn.artifacts import Manifest
from edgeattn.engine.base import BoundQuery, TensorSpec, check_inputs
from edgeattn.engine.cpu_layers import ProfiledQuery
from edgeattn.engine.cpu_samples import SampleRunner
from edgeattn.engine.cpu_session import open_session, runtime_errors, session_options
from edgeattn.engine.host import usable_cores
from edgeattn.errors import EngineError
from edgeattn.inputs import ImagePreprocess

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
} | {
    f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}


class CpuEngine:
    """A lowered graph in an ONNX Runtime session. An `edgeattn.engine.base.Engine`.

    Args:
        data: The lowered graph: standard ONNX.
        manifest: Its manifest. `report["int8_arithmetic"]` chooses the arithmetic of a Q/DQ
            graph, `options["inputs"]` tells how images become inputs, `options["threads"]` how
            many threads to use.
        threads: Threads to use instead; by default all physical cores this process may use.
        weights_folder: Where external weights of the graph lie, if it has any.

    Raises:
        EngineError: If ONNX Runtime refuses the graph, or an input is no tensor of numbers.
    """

    def __init__(
        self,
        data: bytes,
        manifest: Manifest,
        *,
        threads: int | None = None,
        weights_folder: Path | None = None,
    ) -> None:
        self._manifest = manifest
        self._threads = thread_count(threads or manifest.options.get("threads"))
        self._int8_arithmetic = manifest.report.get("int8_arithmetic")
        # The session keeps these bytes alive too.
        self._data, self._weights_folder = data, weights_folder
        batch = manifest.report.get("samples_apart")
        self._session_threads = 1 if batch else self._threads
        options = session_options(self._session_threads, self._int8_arithmetic)
        self._session: Any = open_session(data, options, weights_folder)
        self._samples = SampleRunner(self._session, self._threads) if batch else None
        self._inputs = input_tensors(self._session, manifest)
        self._outputs = tuple(_tensor_spec(value) for value in self._session.get_outputs())
        if batch:  # free in the graph, but it is what the model was exported for
            self._inputs = tuple(replace(s, shape=(batch, *s.shape[1:])) for s in self._inputs)
            self._outputs = tuple(replace(s, shape=(batch, *s.shape[1:])) for s in self._outputs)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that a query needs."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that a query yields."""
        return self._outputs

    @property
    def manifest(self) -> Manifest:
        """What the engine is and where it comes from."""
        return self._manifest

    @property
    def settings(self) -> dict[str, Any]:
        """Threads and what each works on, and how Q/DQ nodes and half types are computed."""
        settings: dict[str, Any] = {"engine": "cpu", "threads": self._threads}
        if self._samples:
            settings["threads_share"] = "samples of the batch"
        if self._int8_arithmetic:
            settings["int8_arithmetic"] = self._int8_arithmetic
        half_arithmetic = self._manifest.report.get("half_arithmetic")
        if half_arithmetic:
            settings["half_arithmetic"] = half_arithmetic
        return settings

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one query; see `Engine.run`."""
        session = self._open_session()
        arrays = check_inputs(self._inputs, inputs)
        if self._samples:
            return self._samples.run(arrays)
        names = [spec.name for spec in self._outputs]
        with runtime_errors("the engine failed"):
            return dict(zip(names, session.run(names, arrays), strict=True))

    def bind(self, inputs: Mapping[str, np.ndarray]) -> BoundQuery:
        """Fix the inputs of a query; see `Engine.bind`."""
        arrays = check_inputs(self._inputs, inputs)
        if self._samples:
            return _SamplesQuery(self._samples, arrays)
        return _CpuQuery(self._open_session(), arrays, self.run(arrays))

    @property
    def graph(self) -> bytes:
        """The lowered graph: standard ONNX, its weights perhaps beside it."""
        return self._data

    @property
    def samples_apart(self) -> bool:
        """Whether the samples of a batch are run apart, one per thread."""
        return self._samples is not None

    def bind_profiled(self, inputs: Mapping[str, np.ndarray]) -> ProfiledQuery:
        """Fix the inputs of a query whose nodes are timed, in a session of its own.

        Where samples are run apart, it runs the first of them alone.

        Raises:
            DataError: As `run`.
            EngineError: As `run`.
        """
        self._open_session()
        arrays = check_inputs(self._inputs, inputs)
        if self._samples:
            arrays = {name: array[:1] for name, array in arrays.items()}
        options = session_options(self._session_threads, self._int8_arithmetic)
        return ProfiledQuery(self._data, options, self._weights_folder, arrays)

    def close(self) -> None:
        """Free the session. Closing twice is harmless."""
        if self._samples:
            self._samples.close()
        self._samples = self._session = None

    def __enter__(self) -> CpuEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_session(self) -> Any:
        if self._session is None:
            raise EngineError("the engine is closed", "load it again")
        return self._session


class _CpuQuery:
    """A query whose inputs and outputs stay in place, so that a run allocates nothing for them."""

    def __init__(
        self, session: Any, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]
    ) -> None:
        self._session = session
        # ONNX Runtime keeps addresses only: the arrays must live as long as the binding.
        self._inputs = inputs
        self._outputs = {name: np.ascontiguousarray(array) for name, array in outputs.items()}
        self._binding = session.io_binding()
        for name, array in self._inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in self._outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def __call__(self) -> None:
        """Run the query; ONNX Runtime returns when the outputs are there."""
        self._session.run_with_iobinding(self._binding)

    def outputs(self) -> dict[str, np.ndarray]:
        """Give the output buffers; the next run overwrites them."""
        return self._outputs


class _SamplesQuery:
    """A query whose samples are run apart."""

    def __init__(self, runner: SampleRunner, inputs: dict[str, np.ndarray]) -> None:
        self._runner = runner
        self._inputs = inputs
        self._outputs = runner.run(inputs)

    def __call__(self) -> None:
        """Run the query."""
        self._outputs = self._runner.run(self._inputs)

    def outputs(self) -> dict[str, np.ndarray]:
        """Give the outputs of the last run."""
        return self._outputs


def input_tensors(session: Any, manifest: Manifest) -> tuple[TensorSpec, ...]:
    """Describe the inputs of a session, with the preprocessing that an engine's manifest names.

    Raises:
        EngineError: If an input is no tensor of numbers, or the manifest is malformed.
    """
    try:
        preprocess = {
            entry["name"]: ImagePreprocess(**entry["preprocess"])
            for entry in manifest.options.get("inputs", [])
            if entry.get("preprocess")
        }
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise EngineError(f"the engine's manifest describes its inputs badly: {err}") from err
    return tuple(_tensor_spec(value, preprocess.get(value.name)) for value in session.get_inputs())


def thread_count(threads: int | None) -> int:
    """Settle the number of threads: as asked, or one for each core this process may use.

    Raises:
        EngineError: If fewer than one is asked for.
    """
    if threads is None:
        return usable_cores()
    if threads < 1:
        raise EngineError(f"threads is {threads}; expected at least 1")
    return threads


def _tensor_spec(value: Any, preprocess: ImagePreprocess | None = None) -> TensorSpec:
    """Describe an input or output of a session. Nameless free sizes are called `NAME.AXIS`."""
    if value.type == "tensor(bfloat16)":
        raise EngineError(
            f"{value.name} is bfloat16, which numpy does not have",
            "let the graph's inputs and outputs be float32: quantize without --half-io",
        )
    if value.type not in _DTYPES:
        raise EngineError(f"{value.name} is a {value.type}; expected a tensor of numbers")
    shape = tuple(
        size if isinstance(size, int) else (size or f"{value.name}.{axis}")
        for axis, size in enumerate(value.shape)
    )
    return TensorSpec(value.name, _DTYPES[value.type], shape, preprocess)
