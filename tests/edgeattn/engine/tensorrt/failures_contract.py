"""What the real bindings raise, where `import tensorrt` gives them, and what we make of it."""

from __future__ import annotations

import pytest
import tensorrt as trt

from edgeattn.engine.tensorrt.failures import explain_exception
from edgeattn.engine.tensorrt.log import CapturedLog, make_logger
from edgeattn.errors import BuildError, EngineError


@pytest.mark.parametrize("kind", ["Builder", "Runtime"])
def test_an_object_that_was_not_made_is_explained(kind):
    """The link stubs give no object, as TensorRT does without a GPU."""
    log = CapturedLog()
    logger = make_logger(log)
    with pytest.raises(TypeError) as raised:
        getattr(trt, kind)(logger)
    error = explain_exception(raised.value, EngineError, log)
    assert isinstance(error, EngineError)
    assert error.message == "TensorRT does not start, and gives no reason"
    assert "nvidia-smi" in error.hint


@pytest.mark.parametrize(
    ("of", "name"),
    [
        (trt, "IInt8NoSuchCalibrator"),
        (trt.BuilderFlag, "NO_SUCH_FLAG"),
        (trt.MemoryPoolType.WORKSPACE, "no_such_name"),
    ],
)
def test_a_name_that_this_version_lacks_is_explained(of, name):
    with pytest.raises(AttributeError) as raised:
        getattr(of, name)
    error = explain_exception(raised.value, BuildError, CapturedLog())
    assert isinstance(error, BuildError)
    assert error.message.startswith(f"this TensorRT has no {name}: ")
