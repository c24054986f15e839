"""Import TensorRT's bindings and pycuda's driver module, or say how to get them."""

from __future__ import annotations

from typing import Any

from edgeattn.errors import MissingDependencyError


def import_tensorrt() -> Any:
    """Import TensorRT's Python package.

    Raises:
        MissingDependencyError: If it, or a library that it needs, is not installed.
    """
    try:
        import tensorrt
    except ImportError as err:
        raise MissingDependencyError(
            f"this needs TensorRT's Python package, which cannot be imported: {err}",
            "apt install python3-libnvinfer on a Jetson, pip install tensorrt elsewhere",
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
