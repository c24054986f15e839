"""Calibrators where TensorRT has none, or is not there; the rest is calibrators_contract.py."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from edgeattn.artifacts import Parent
from edgeattn.engine.tensorrt.calibrators import int8_calibrator
from edgeattn.errors import MissingDependencyError
from edgeattn.inputs import InputSpec
from tests.tensorrt_bindings import bindings

ON_11 = """
import json
from edgeattn.artifacts import Parent
from edgeattn.engine.tensorrt.calibrators import int8_calibrator
from edgeattn.errors import BuildError
from edgeattn.inputs import InputSpec
try:
    with int8_calibrator([], (InputSpec((1, 3)),), Parent("net.onnx", "0")):
        pass
except BuildError as err:
    print(json.dumps([err.message, err.hint]))
"""


def test_tensorrt_11_has_none_and_that_is_said():
    message, hint = json.loads(bindings("11.4.0.106").run("-c", ON_11))
    assert message.startswith("TensorRT 11.4.0.106 has no INT8 calibrators: from version 11 on")
    assert "edgeattn quantize" in hint


def test_without_tensorrt_its_absence_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    data = np.zeros((4, 3), np.float32)
    with (
        pytest.raises(MissingDependencyError, match="needs TensorRT's Python package") as error,
        int8_calibrator(data, (InputSpec((1, 3)),), Parent("net.onnx", "0")),
    ):
        pass
    assert "python3-libnvinfer" in error.value.hint
