"""The bindings that other tests lean on are NVIDIA's, import, and give nothing away for results."""

from __future__ import annotations

import json
import threading
import zipfile
from pathlib import Path

import pytest

from tests import tensorrt_bindings
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


@pytest.mark.parametrize(
    ("promised", "refusal"), [(False, pytest.skip.Exception), (True, pytest.fail.Exception)]
)
def test_what_cannot_be_had_skips_a_test_unless_it_was_promised(monkeypatch, promised, refusal):
    obstacle = "ERROR: No matching distribution found"
    monkeypatch.setattr(tensorrt_bindings, "_prepare", lambda version: (Path(), obstacle))
    monkeypatch.setattr(tensorrt_bindings, "promised", promised)
    with pytest.raises(refusal, match=r"of TensorRT 10\.3\.0 \(`make bindings`\): ERROR: No match"):
        bindings("10.3.0")
    assert not tensorrt_bindings.have_bindings()
    assert tensorrt_bindings.first_obstacle() == f"TensorRT 10.3.0: {obstacle}"


def test_of_many_that_ask_at_once_one_fetches(monkeypatch, tmp_path):
    fetched = []

    def download(version: str, folder: Path) -> str:
        fetched.append(version)
        with zipfile.ZipFile(folder / "some.whl", "w") as wheel:
            wheel.writestr("tensorrt_bindings/__init__.py", "")
        return ""

    monkeypatch.setattr(tensorrt_bindings, "FETCHED", tmp_path)
    monkeypatch.setattr(tensorrt_bindings, "_download", download)
    prepare, found = tensorrt_bindings._prepare.__wrapped__, []
    threads = [threading.Thread(target=lambda: found.append(prepare("10.3.0"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == ["10.3.0"]
    assert len(set(found)) == 1
    folder, obstacle = found[0]
    assert obstacle == ""
    assert (folder / "tensorrt" / "__init__.py").is_file()
    assert (folder / "lib" / "libnvinfer.so.10").is_file()


def test_a_refusal_of_pip_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(tensorrt_bindings, "FETCHED", tmp_path)
    monkeypatch.setattr(tensorrt_bindings, "_download", lambda version, folder: "no network")
    folder, obstacle = tensorrt_bindings._prepare.__wrapped__("10.3.0")
    assert (folder.exists(), obstacle) == (False, "no network")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
