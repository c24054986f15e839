"""Import TensorRT's bindings, pycuda and cuda-python, or say how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from edgeattn.engine.tensorrt.failure_table import look_up
from edgeattn.errors import MissingDependencyError


def import_tensorrt() -> Any:
    """Import TensorRT's Python package.

    Raises:
        MissingDependencyError: If it, or a library that it needs, is not installed.
    """
    try:
        import tensorrt
    except ImportError as err:
        hint = "apt install python3-libnvinfer on a Jetson, pip install tensorrt elsewhere"
        for row, _ in look_up(str(err)):
            hint = row.hint  # it is there, and a library that it needs is not
        raise MissingDependencyError(
            f"this needs TensorRT's Python package, which cannot be imported: {err}", hint
        ) from err
    return tensorrt


def import_cuda() -> Any:
    """Import `pycuda.driver`, and never `pycuda.autoinit`, which makes a context of its own.

    Raises:
        MissingDependencyError: If it, or CUDA's driver, is not installed.
    """
    try:
        import pycuda.driver
    except ImportError as err:
        raise MissingDependencyError(
            f"this needs pycuda, which cannot be imported: {err}", "pip install pycuda"
        ) from err
    return pycuda.driver


def import_cuda_runtime() -> Any:
    """Import cuda-python's bindings of CUDA's runtime, which know graphs; pycuda does not.

    Raises:
        MissingDependencyError: If they are not installed.

    References:
        Wheels cuda-python 12.3.0 (`cuda.cudart` alone), 12.6.2 (both names), cuda-bindings 12.9.4
        and 13.5.0 (`cuda.bindings.runtime`).
    """
    reason: ImportError | None = None
    for name in ("cuda.bindings.runtime", "cuda.cudart"):
        try:
            return importlib.import_module(name)
        except ImportError as err:
            reason = reason or err
    raise MissingDependencyError(
        f"CUDA graphs need cuda-python, which cannot be imported: {reason}",
        "pip install 'cuda-python==12.*', or 13 where CUDA is 13",
    ) from reason
