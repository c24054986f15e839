"""What an engine is: named typed inputs and outputs, `run`, and a query that can be timed.

Everything above this package works with the protocols here and does not know which engine it has.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from edgeattn.artifacts import Manifest
from edgeattn.errors import DataError
from edgeattn.inputs import Dim, ImagePreprocess


@dataclass(frozen=True)
class TensorSpec:
    """Name, type and shape of one input or output of an engine.

    Attributes:
        name: Name of the tensor.
        dtype: numpy name of the element type; `bfloat16` is the type of `ml_dtypes`.
        shape: Sizes; a dimension that is free at run time has a name instead, and one name
            stands for one size in all inputs of a query.
        preprocess: How image files become this input; `None` if it is not an image.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    preprocess: ImagePreprocess | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


class QueryTimes(NamedTuple):
    """When the parts of one query began and ended, in nanoseconds of `time.perf_counter_ns`.

    An engine without a device enqueues and computes in one go and copies nothing: its copies are
    empty intervals at the ends of the computation.
    """

    start_enqueue_ns: int
    end_enqueue_ns: int
    start_h2d_ns: int
    end_h2d_ns: int
    start_compute_ns: int
    end_compute_ns: int
    start_d2h_ns: int
    end_d2h_ns: int


class BoundQuery(Protocol):
    """One query with its inputs and output buffers fixed: what a timing loop repeats."""

    def __call__(self) -> None:
        """Run the query and return when its outputs are on the host."""

    def outputs(self) -> dict[str, np.ndarray]:
        """Give the output buffers; the next run overwrites them."""


@runtime_checkable
class TimedQuery(Protocol):
    """A query that knows its own times: an engine whose work runs on a device offers this."""

    def timed(self) -> QueryTimes:
        """Run the query as a call does and say when its parts ran."""


class Engine(Protocol):
    """A loaded network that is ready to run. Close it, or use it in a `with` block."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that a query needs."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The tensors that a query yields."""

    @property
    def manifest(self) -> Manifest:
        """What the engine is and where it comes from."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that move its latency: threads, streams, arithmetic. Reports state them."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one query.

        Args:
            inputs: An array for each of `self.inputs`, by name; contiguous or not.

        Returns:
            An array for each of `self.outputs`, by name.

        Raises:
            DataError: If an input is missing, unknown or of another type or shape.
            EngineError: If the engine is closed or fails.
        """

    def bind(self, inputs: Mapping[str, np.ndarray]) -> BoundQuery:
        """Fix the inputs of a query and allocate its outputs, which takes one run.

        Raises:
            DataError: As `run`.
            EngineError: As `run`.
        """

    def close(self) -> None:
        """Free everything the engine holds. Closing twice is harmless."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def check_inputs(
    specs: Sequence[TensorSpec], inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Check arrays against the inputs of an engine.

    Args:
        specs: The inputs of the engine.
        inputs: Arrays by name.

    Returns:
        The same arrays in the order of `specs`, C-contiguous and in native byte order; copied
        only where they were not.

    Raises:
        DataError: If one is missing, unknown, no array, or of another type, rank or size.
    """
    _check_names([spec.name for spec in specs], inputs)
    sizes: dict[str, tuple[int, str]] = {}  # of each free dimension, and the input that set it
    return {spec.name: _check_array(spec, inputs[spec.name], sizes) for spec in specs}


def near_misses(name: str, known: Iterable[str]) -> str:
    """Make a hint that lists the known names most like a wrong one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"known are: {', '.join(known)}"


def _check_names(expected: list[str], inputs: Mapping[str, np.ndarray]) -> None:
    if not isinstance(inputs, Mapping):
        raise DataError(
            f"the inputs are a {type(inputs).__name__}; expected arrays by name",
            f"give a dictionary with {', '.join(expected)}",
        )
    for name in inputs:
        if name not in expected:
            raise DataError(f"the engine has no input {name}", near_misses(str(name), expected))
    missing = [name for name in expected if name not in inputs]
    if missing:
        raise DataError(
            f"the input {missing[0]} is missing",
            f"the engine needs {', '.join(expected)}",
        )


def _check_array(
    spec: TensorSpec, array: np.ndarray, sizes: dict[str, tuple[int, str]]
) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise DataError(
            f"the input {spec.name} is a {type(array).__name__}; expected a numpy array"
        )
    if array.dtype.name != spec.dtype:
        raise DataError(
            f"the input {spec.name} is {array.dtype.name}; expected {spec.dtype}",
            f"convert it: array.astype({spec.dtype!r})",
        )
    expected = ", ".join(map(str, spec.shape))
    if array.ndim != len(spec.shape):
        raise DataError(
            f"the input {spec.name} has the shape {array.shape} of rank {array.ndim}; "
            f"expected rank {len(spec.shape)}: ({expected})",
            "samples stand along axis 0; reshape the array",
        )
    for axis, (size, dim) in enumerate(zip(array.shape, spec.shape, strict=True)):
        if isinstance(dim, int) and size != dim:
            raise DataError(
                f"the input {spec.name} has size {size} on axis {axis}; expected {dim}, "
                f"the shape being ({expected})",
                "give that size, or export the model with dynamic axes",
            )
        if size == 0:
            raise DataError(
                f"the input {spec.name} is empty: its shape is {array.shape}, expected ({expected})"
            )
        if isinstance(dim, str):
            first, setter = sizes.setdefault(dim, (size, spec.name))
            if size != first:
                raise DataError(
                    f"the dimension {dim} is {first} in the input {setter} but {size} in "
                    f"{spec.name}"
                )
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
