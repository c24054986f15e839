"""How NVIDIA's bindings read NumPy's arrays, which `edgeattn doctor` warns of."""

from __future__ import annotations

import numpy as np
import pytest
import tensorrt as trt

from edgeattn.deploy.software import NUMPY_2
from edgeattn.engine.tensorrt.versions import installed_version

VERSION = installed_version()
IS_MISREAD = np.lib.NumpyVersion(np.__version__) >= "2.0.0" and (
    (VERSION.major, VERSION.minor) < NUMPY_2
)


def is_read_right(array: np.ndarray, read: object) -> bool:
    return np.array_equal(np.asarray(read), array)


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.int32])
def test_weights_are_misread_in_the_versions_that_the_doctor_names(dtype):
    array = np.arange(1, 4, dtype=dtype)
    assert is_read_right(array, trt.Weights(array).numpy()) is not IS_MISREAD


@pytest.mark.parametrize("kind", ["INT32", "FLOAT32"])
def test_plugin_fields_are_misread_in_the_versions_that_the_doctor_names(kind):
    array = np.arange(1, 4, dtype=kind.lower())
    field = trt.PluginField("name", array, getattr(trt.PluginFieldType, kind))
    assert (field.name, field.size) == ("name", 3)
    assert is_read_right(array, field.data) is not IS_MISREAD


def test_numpys_types_have_no_bfloat16_and_no_float8():
    for name, dtype in [("float32", np.float32), ("float16", np.float16), ("int64", np.int64)]:
        assert trt.nptype(getattr(trt, name)) is dtype
    for name in ["bfloat16", "fp8", "int4"]:
        with pytest.raises(TypeError, match="Could not resolve TensorRT datatype"):
            trt.nptype(getattr(trt, name))
