"""The bindings that other tests lean on are NVIDIA's, import, and give nothing away for results."""

from __future__ import annotations

import json

import pytest

from tests.tensorrt_bindings import VERSIONS, bindings

DESCRIBE = """
import json, tensorrt as trt
def refusal(function):
    try:
        return repr(function())
    except TypeError as err:
        return str(err)
logger = trt.Logger()
print(json.dumps({
    "version": trt.__version__,
    "builder": refusal(lambda: trt.Builder(logger)),
    "runtime": refusal(lambda: trt.Runtime(logger)),
    "registry": refusal(trt.get_plugin_registry),
    "calibrators": hasattr(trt, "IInt8EntropyCalibrator2"),
}))
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_the_bindings_import_and_refuse_to_build(version):
    found = json.loads(bindings(version).run("-c", DESCRIBE))
    assert version.startswith(found["version"])
    assert "factory function returned nullptr" in found["builder"]
    assert "factory function returned nullptr" in found["runtime"]
    assert found["registry"] == "None"
    assert found["calibrators"] == version.startswith("10.")


def test_the_plugin_package_comes_with_the_versions_that_have_it():
    found = bindings("10.16.1.11").run("-c", "import tensorrt.plugin as p; print(p.register)")
    assert found.splitlines()[-1].startswith("<function register")
