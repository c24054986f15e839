"""The inputs and outputs of a TensorRT engine: types, shapes, where they lie, what a query may be.

TensorRT knows a free size as -1 and no name for it; the engine's manifest has the names that the
model's inputs were exported with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from edgeattn.artifacts import Manifest
from edgeattn.engine.base import TensorSpec
from edgeattn.engine.tensorrt.imports import import_tensorrt
from edgeattn.errors import DataError, EngineError
from edgeattn.inputs import ImagePreprocess

if TYPE_CHECKING:
    import tensorrt


@dataclass(frozen=True)
class IoTensor:
    """An input or output of an engine.

    Attributes:
        name: Its name.
        dtype: Its type; bfloat16 is that of `ml_dtypes`.
        shape: Sizes; -1 where they are free.
        is_input: Whether a query gives it, or yields it.
        on_host: Whether TensorRT reads or writes it in the processor's memory, as it does where
            the values are shapes of other tensors.
        ranges: Of an input, the least and the greatest shape of each optimization profile.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_input: bool
    on_host: bool
    ranges: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()


def io_tensors(engine: tensorrt.ICudaEngine) -> tuple[IoTensor, ...]:
    """List the inputs and outputs of an engine.

    Raises:
        EngineError: If one has a type or a memory layout that numpy does not have.
    """
    tensors = []  # by a plain loop: a generator's closure would hold a refused engine
    for index in range(engine.num_io_tensors):
        tensors.append(_io_tensor(engine, engine.get_tensor_name(index)))
    return tuple(tensors)


def _io_tensor(engine: tensorrt.ICudaEngine, name: str) -> IoTensor:
    trt = import_tensorrt()
    dtype = _numpy_types().get(engine.get_tensor_dtype(name))
    if dtype is None:
        raise EngineError(
            f"{name} has the type {engine.get_tensor_dtype(name).name}, which numpy does not have",
            "build the engine from a graph whose inputs and outputs are float32",
        )
    if engine.get_tensor_format(name) != trt.TensorFormat.LINEAR:
        raise EngineError(
            f"{name} has the memory layout {engine.get_tensor_format(name).name}; expected LINEAR",
            "build the engine with edgeattn build, or without allowed formats for its tensors",
        )
    is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
    shape = tuple(engine.get_tensor_shape(name))
    return IoTensor(
        name,
        dtype,
        shape,
        is_input,
        engine.get_tensor_location(name) == trt.TensorLocation.HOST,
        _ranges(engine, name, shape) if is_input else (),
    )


def _ranges(
    engine: tensorrt.ICudaEngine, name: str, shape: tuple[int, ...]
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """List the least and the greatest shape of an input in each optimization profile."""
    count = engine.num_optimization_profiles
    if min(shape, default=0) >= 0:  # nothing is free: not asked for what no profile was told
        return ((shape, shape),) * count
    profiles = []
    for index in range(count):
        least, _, greatest = engine.get_tensor_profile_shape(name, index)
        profiles.append((tuple(least), tuple(greatest)))
    return tuple(profiles)


def _numpy_types() -> dict[Any, np.dtype[Any]]:
    """List TensorRT's types that have a type of numpy, or of `ml_dtypes`, of the same bits."""
    trt = import_tensorrt()
    return {
        trt.DataType.FLOAT: np.dtype(np.float32),
        trt.DataType.HALF: np.dtype(np.float16),
        trt.DataType.BF16: np.dtype(ml_dtypes.bfloat16),
        trt.DataType.INT8: np.dtype(np.int8),
        trt.DataType.UINT8: np.dtype(np.uint8),
        trt.DataType.INT32: np.dtype(np.int32),
        trt.DataType.INT64: np.dtype(np.int64),
        trt.DataType.BOOL: np.dtype(np.bool_),
    }


def tensor_specs(
    tensors: Sequence[IoTensor], manifest: Manifest
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Describe inputs and outputs as every engine does.

    A free size of an input has the name that the manifest gives it, else `NAME.AXIS`. A size of
    which the optimization profiles leave no choice is not free.

    Returns:
        The inputs, and the outputs.

    Raises:
        EngineError: If the manifest describes the inputs badly.
    """
    inputs: list[TensorSpec] = []
    outputs: list[TensorSpec] = []
    for tensor in tensors:
        entry = _described(manifest, tensor.name) if tensor.is_input else {}
        named = entry.get("shape") or ()
        names = named if len(named) == len(tensor.shape) else tensor.shape
        sizes = _sizes(tensor)
        shape = tuple(
            size if size >= 0 else name if isinstance(name, str) else f"{tensor.name}.{axis}"
            for axis, (size, name) in enumerate(zip(sizes, names, strict=True))
        )
        preprocess = entry.get("preprocess")
        spec = TensorSpec(
            tensor.name,
            tensor.dtype.name,
            shape,
            ImagePreprocess(**preprocess) if preprocess else None,
        )
        (inputs if tensor.is_input else outputs).append(spec)
    return tuple(inputs), tuple(outputs)


def _sizes(tensor: IoTensor) -> tuple[int, ...]:
    """Give the shape of a tensor: -1 where it is free, what all profiles say where they agree."""
    if not tensor.ranges:
        return tensor.shape
    choices = zip(*(shape for bounds in tensor.ranges for shape in bounds), strict=True)
    return tuple(
        sizes[0] if size < 0 and len(set(sizes)) == 1 else size
        for size, sizes in zip(tensor.shape, choices, strict=True)
    )


def _described(manifest: Manifest, name: str) -> dict[str, Any]:
    """Find what the manifest says of an input.

    Raises:
        EngineError: If it says it badly.
    """
    try:
        entries = [dict(entry) for entry in manifest.options.get("inputs", [])]
        entry: dict[str, Any] = next((e for e in entries if e["name"] == name), {})
        list(entry.get("shape") or ())
        if entry.get("preprocess"):
            ImagePreprocess(**entry["preprocess"])
    except (AttributeError, KeyError, TypeError, ValueError) as err:
        raise EngineError(f"the engine's manifest describes its inputs badly: {err}") from err
    return entry


def check_in_profile(
    tensors: Sequence[IoTensor], arrays: Mapping[str, np.ndarray], profile_index: int
) -> None:
    """Check the shapes of a query against the optimization profile that a context works in.

    Args:
        tensors: Of the engine.
        arrays: The inputs, of the engine's types and ranks.
        profile_index: The profile.

    Raises:
        DataError: If a size is outside; names a profile that takes the query, if there is one.
    """
    for tensor in tensors:
        if not tensor.is_input or _takes(tensor, arrays, profile_index):
            continue
        shape = arrays[tensor.name].shape
        least, greatest = tensor.ranges[profile_index]
        axis = next(a for a, size in enumerate(shape) if not least[a] <= size <= greatest[a])
        others = [
            index
            for index in range(len(tensor.ranges))
            if all(_takes(other, arrays, index) for other in tensors if other.is_input)
        ]
        raise DataError(
            f"the input {tensor.name} has size {shape[axis]} on axis {axis}; expected "
            f"{least[axis]} to {greatest[axis]} in optimization profile {profile_index}",
            f"profile {others[0]} of the engine takes this query"
            if others
            else "give a size in that range, or build the engine with another one "
            "(--min-shapes, --max-shapes)",
        )


def _takes(tensor: IoTensor, arrays: Mapping[str, np.ndarray], profile_index: int) -> bool:
    least, greatest = tensor.ranges[profile_index]
    sizes = zip(least, arrays[tensor.name].shape, greatest, strict=True)
    return all(low <= size <= high for low, size, high in sizes)
