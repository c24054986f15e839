"""Our calibrators behind NVIDIA's own bindings, called the way TensorRT calls them.

`test_contract.py` runs these tests where `import tensorrt` gives the bindings. TensorRT calls a
calibrator through the virtual functions of a C++ class, which NVIDIA's bindings carry over to
Python; the tests call those functions themselves. No result of TensorRT's is made up: the scales
that it would "find" are a text that only has to come back.
"""

from __future__ import annotations

import ctypes
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt as trt

from edgeattn.artifacts import Parent, manifest_path
from edgeattn.calibration.trt_cache import TrtCalibCache
from edgeattn.engine.tensorrt import device
from edgeattn.engine.tensorrt.calibrators import int8_calibrator
from edgeattn.errors import ArtifactError, BuildError, DataError, EngineError, SpecError
from edgeattn.inputs import InputSpec
from tests.pycuda_standin import Ledger, install

VERSIONS = ("10.3.0", "10.7.0", "10.13.3.9", "10.16.1.11")  # TensorRT 11 has no calibrators

INPUTS = (InputSpec((4, 3), "x"), InputSpec((4, 2, 1), "mask", "int32"))
GRAPH = Parent("net.onnx", "1" * 64)
FOUND = b"TRT-100300-EntropyCalibration2\nx: 3c010204\n"


class Builder:
    """TensorRT's side of a calibrator: the virtual functions of nvinfer1::IInt8Calibrator.

    A pybind11 object holds the address of its C++ object after Python's own header of two words,
    and a C++ object that of its table of virtual functions. Their order is NvInfer.h's, the same
    in 10.3 and 10.16: two of IVersionedInterface and two destructors come first.
    """

    GET_INTERFACE_INFO = 1
    GET_BATCH_SIZE, GET_BATCH, READ_CACHE, WRITE_CACHE, GET_ALGORITHM = range(4, 9)

    class InterfaceInfo(ctypes.Structure):
        _fields_ = (("kind", ctypes.c_char_p), ("major", ctypes.c_int), ("minor", ctypes.c_int))

    def __init__(self, calibrator: Any) -> None:
        self._keep_alive = calibrator
        self._this = ctypes.c_void_p.from_address(
            id(calibrator) + 2 * ctypes.sizeof(ctypes.c_void_p)
        )
        table = ctypes.c_void_p.from_address(self._this.value).value
        self._functions = (ctypes.c_void_p * 9).from_address(table)
        info = self._call(self.GET_INTERFACE_INFO, self.InterfaceInfo)
        assert info.kind.isascii()  # the table is one of an IVersionedInterface
        assert (info.major, info.minor) == (1, 0)

    def _call(self, slot: int, result: Any, *arguments: Any) -> Any:
        kinds = [type(argument) for argument in arguments]
        function = ctypes.CFUNCTYPE(result, ctypes.c_void_p, *kinds)(self._functions[slot])
        return function(self._this, *arguments)

    def batch_size(self) -> int:
        return self._call(self.GET_BATCH_SIZE, ctypes.c_int32)

    def algorithm(self) -> int:
        return self._call(self.GET_ALGORITHM, ctypes.c_int32)

    def batch(self, *names: str) -> list[int] | None:
        """Ask for the next batch: its addresses, or `None` at the end."""
        addresses = (ctypes.c_void_p * len(names))()
        texts = (ctypes.c_char_p * len(names))(*(name.encode() for name in names))
        count = ctypes.c_int32(len(names))
        more = self._call(self.GET_BATCH, ctypes.c_bool, addresses, texts, count)
        return list(addresses) if more else None

    def read_cache(self) -> bytes | None:
        length = ctypes.c_size_t(0)
        address = self._call(self.READ_CACHE, ctypes.c_void_p, ctypes.pointer(length))
        return ctypes.string_at(address, length.value) if address else None

    def write_cache(self, content: bytes) -> None:
        memory = ctypes.create_string_buffer(content)
        self._call(self.WRITE_CACHE, None, memory, ctypes.c_size_t(len(content)))
        memory.raw = b"\xff" * len(memory)  # TensorRT's buffer ends with the call

    def calibrate(self) -> int:
        """Do what a build does: look for a cache, else take all batches and write one."""
        if self.read_cache() is not None:
            return 0
        count = 0
        while self.batch("x", "mask") is not None:
            count += 1
        self.write_cache(FOUND)
        return count


@pytest.fixture(autouse=True)
def ledger(monkeypatch) -> Iterator[Ledger]:
    device._retained.cache_clear()
    ledger = Ledger()
    for name, module in install(ledger).items():
        monkeypatch.setitem(sys.modules, name, module)
    yield ledger
    assert ledger.current == []
    assert ledger.allocations == {}, "device memory was left behind"


def arrays(count: int = 10, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 3)).astype(np.float32)
    return {"x": x, "mask": np.arange(2 * count, dtype=np.int32).reshape(count, 2, 1)}


def batches(count: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield samples one by one, in order."""
    data = arrays(count)
    for index in range(count):
        yield {name: array[index] for name, array in data.items()}


def test_the_methods_are_those_of_the_base_class():
    for name in ("IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator"):
        base = getattr(trt, name)
        signature = base.get_batch.__doc__.partition("\n")[0].lower()
        assert "names: " in signature
        assert signature.endswith("-> list[int]")
        for method in ("get_batch_size", "read_calibration_cache", "write_calibration_cache"):
            assert callable(getattr(base, method))
    with int8_calibrator(arrays(), INPUTS, GRAPH) as calibrator:
        assert isinstance(calibrator, trt.IInt8EntropyCalibrator2)
        Builder(calibrator).calibrate()


@pytest.mark.parametrize(
    ("method", "algorithm"),
    [
        ("entropy", trt.CalibrationAlgoType.ENTROPY_CALIBRATION_2),
        ("minmax", trt.CalibrationAlgoType.MINMAX_CALIBRATION),
    ],
)
def test_every_full_batch_arrives_on_the_gpu(method, algorithm, ledger):
    seen, progress = [], []
    with int8_calibrator(
        batches(11), INPUTS, GRAPH, method=method, progress=lambda *step: progress.append(step)
    ) as calibrator:
        builder = Builder(calibrator)
        assert builder.batch_size() == 4
        assert builder.algorithm() == int(algorithm)
        assert builder.read_cache() is None
        while (addresses := builder.batch("x", "mask")) is not None:
            assert len(addresses) == 2
            seen.append(
                {
                    "x": ledger.read(addresses[0], "float32", (4, 3)),
                    "mask": ledger.read(addresses[1], "int32", (4, 2, 1)),
                }
            )
        assert builder.batch("x", "mask") is None
        builder.write_cache(FOUND)
    for name, expected in arrays(11).items():
        np.testing.assert_array_equal(np.concatenate([batch[name] for batch in seen]), expected[:8])
    assert ledger.allocated == 2
    assert progress == [(4, None, "calibrating"), (8, None, "calibrating")]


def test_addresses_come_in_the_order_asked_for():
    with int8_calibrator(batches(8), INPUTS, GRAPH) as calibrator:
        builder = Builder(calibrator)
        x, mask = builder.batch("x", "mask")
        assert builder.batch("mask", "x") == [mask, x]


def test_samples_are_chosen_by_seed_and_limited():
    def first(**options: Any) -> bytes:
        with int8_calibrator(arrays(40), INPUTS, GRAPH, **options) as calibrator:
            builder = Builder(calibrator)
            (address,) = builder.batch("x")
            found = ctypes.string_at(address, 48)
            limited = options.get("samples") == 4
            assert (builder.batch("x") is None) == limited
        return found

    assert first() == first() != first(seed=1)
    assert first(samples=4) == first()


def failing(error: BaseException) -> Iterator[dict[str, np.ndarray]]:
    yield from batches(4)
    raise error


class FailsOnce:
    """Data that can be iterated anew, and fails after a batch."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        yield from batches(4)
        raise self._error


@pytest.mark.parametrize("error", [ValueError("the disk"), KeyboardInterrupt()])
def test_what_fails_in_a_batch_is_raised_when_the_block_ends(error, tmp_path, capfd):
    cache = tmp_path / "net.cache"
    ends = []

    def build() -> None:
        with int8_calibrator(FailsOnce(error), INPUTS, GRAPH, cache=cache) as calibrator:
            builder = Builder(calibrator)
            # To TensorRT, an error is the end of the data.
            ends.extend(builder.batch("x", "mask") is None for _ in range(3))
            builder.write_cache(FOUND)

    with pytest.raises(type(error)) as raised:
        build()
    assert raised.value is error
    assert ends == [False, True, True]
    assert not cache.exists()
    assert "Exception caught" not in capfd.readouterr().err  # by the bindings


def build(data: Any, *names: str, failure: Exception | None = None) -> None:
    """Calibrate on data, or ask for one batch of some names; then fail as told."""
    with int8_calibrator(data, INPUTS, GRAPH) as calibrator:
        builder = Builder(calibrator)
        if names:
            assert builder.batch(*names) is None
        else:
            builder.calibrate()
        if failure:
            raise failure


def test_a_sample_with_nan_is_raised_and_named():
    data = arrays(8)
    data["x"][5, 1] = np.nan
    with pytest.raises(DataError, match="sample 5 of arrays holds NaN"):
        build(data)


def test_the_builds_own_failure_does_not_hide_its_cause():
    failure = BuildError("TensorRT built nothing")
    with pytest.raises(DataError, match="samples; expected at least 4") as raised:
        build(batches(3), failure=failure)
    assert raised.value.__context__ is failure


def test_the_builds_own_failure_is_raised_where_calibration_went_well():
    failure = BuildError("TensorRT built nothing")
    with pytest.raises(BuildError) as raised:
        build(batches(8), failure=failure)
    assert raised.value is failure


def test_a_failure_of_the_gpu_is_raised(ledger):
    ledger.capacity = 50
    with pytest.raises(EngineError, match="out of memory"):
        build(batches(8))


def test_nothing_is_handed_out_after_an_error_even_if_the_gpu_recovers(ledger):
    ends = []

    def build() -> None:
        with int8_calibrator(batches(12), INPUTS, GRAPH) as calibrator:
            builder = Builder(calibrator)
            for ledger.broken in (False, True, False):
                ends.append(builder.batch("x", "mask") is None)

    with pytest.raises(EngineError, match="cuMemcpyHtoD failed"):
        build()
    assert ends == [False, True, True]


def test_an_input_without_data_is_named():
    with pytest.raises(BuildError, match="TensorRT asks for the input y; the data has x, mask"):
        build(batches(8), "x", "y")


def test_a_calibrator_that_was_not_asked_is_an_error():
    with (
        pytest.raises(BuildError, match="TensorRT did not calibrate") as error,
        int8_calibrator(batches(8), INPUTS, GRAPH),
    ):
        pass
    assert "no Q/DQ nodes" in error.value.hint


# The cache


def calibrate(cache: Path, **changes: Any) -> int:
    """Calibrate with a cache; returns how many batches TensorRT asked for."""
    options = {"data": arrays(), "inputs": INPUTS, "graph": GRAPH} | changes
    with int8_calibrator(cache=cache, **options) as calibrator:
        return Builder(calibrator).calibrate()


def test_scales_are_kept_and_given_back_without_touching_the_gpu(tmp_path, ledger):
    cache = tmp_path / "net.cache"
    assert calibrate(cache) == 2
    assert cache.read_bytes() == FOUND
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.cache", "net.cache.json"]
    allocated = ledger.allocated
    with int8_calibrator(arrays(), INPUTS, GRAPH, cache=cache) as calibrator:
        builder = Builder(calibrator)
        assert builder.read_cache() == FOUND
        builder.write_cache(FOUND)  # TensorRT may write what it has just read
    assert ledger.allocated == allocated
    assert json.loads(manifest_path(cache).read_text())["report"]["samples"] == 8


def test_the_cache_says_what_it_is_of(tmp_path):
    cache = tmp_path / "net.cache"
    calibrate(cache)
    manifest = json.loads(manifest_path(cache).read_text())
    assert manifest["kind"] == "trt_calib_cache"
    assert manifest["parents"]["graph"] == {"file": "net.onnx", "sha256": "1" * 64}
    assert len(manifest["parents"]["data"]["sha256"]) == 64
    assert manifest["options"] == {
        "algorithm": "EntropyCalibration2",
        "tensorrt": trt.__version__,
        "inputs": {"x": ["float32", 4, 3], "mask": ["int32", 4, 2, 1]},
    }
    assert manifest["report"] == {"samples": 8, "left_out": 2, "skipped": []}
    assert TrtCalibCache.load(cache).quant_scales.keys() == {"x"}


STALE = {
    "graph": {"graph": Parent("net.onnx", "2" * 64)},
    "set of data": {"data": arrays(seed=1)},
    "algorithm": {"method": "minmax"},
    "inputs": {"inputs": (InputSpec((2, 3), "x"), InputSpec((2, 2, 1), "mask", "int32"))},
}


@pytest.mark.parametrize("what", STALE)
def test_scales_of_something_else_are_found_anew_and_that_is_said(what, tmp_path, caplog):
    cache = tmp_path / "net.cache"
    calibrate(cache)
    before = manifest_path(cache).read_bytes()
    with caplog.at_level(logging.WARNING):
        assert calibrate(cache, **STALE[what]) > 0
    (record,) = caplog.records
    assert f"was kept for another {what}" in record.getMessage()
    assert manifest_path(cache).read_bytes() != before
    assert calibrate(cache, **STALE[what]) == 0


def test_scales_of_another_version_of_tensorrt_are_found_anew(tmp_path, caplog):
    cache = tmp_path / "net.cache"
    calibrate(cache)
    described = manifest_path(cache)
    described.write_text(described.read_text().replace(f'"{trt.__version__}"', '"10.0.1"'))
    assert calibrate(cache) == 2
    assert f"another tensorrt (10.0.1, now {trt.__version__})" in caplog.text


def test_the_order_of_the_data_does_not_make_a_cache_stale(tmp_path):
    cache = tmp_path / "net.cache"
    calibrate(cache, data=arrays(8))
    assert calibrate(cache, data=arrays(8), seed=3) == 0


def test_what_edgeattn_did_not_write_is_neither_used_nor_replaced(tmp_path):
    cache = tmp_path / "net.cache"
    cache.write_bytes(FOUND)
    with pytest.raises(ArtifactError, match="is not a cache that edgeattn wrote") as error:
        calibrate(cache)
    assert "--from-cache" in error.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["net.cache"]


@pytest.mark.parametrize("content", [b"", FOUND[:-9], FOUND + b"y: 3c010204\n"])
def test_a_cache_that_was_changed_is_refused(content, tmp_path):
    cache = tmp_path / "net.cache"
    calibrate(cache)
    cache.write_bytes(content)
    with pytest.raises(ArtifactError, match="their hashes differ"):
        calibrate(cache)


def test_an_artefact_of_another_kind_is_refused(tmp_path):
    cache = tmp_path / "net.cache"
    calibrate(cache)
    described = json.loads(manifest_path(cache).read_text())
    manifest_path(cache).write_text(json.dumps(described | {"kind": "engine"}))
    with pytest.raises(ArtifactError, match="is of the kind engine; expected a calibration"):
        calibrate(cache)


def test_a_folder_that_is_not_there_is_refused_before_the_build(tmp_path):
    with pytest.raises(ArtifactError, match="there is no folder"):
        calibrate(tmp_path / "nowhere" / "net.cache")


def test_a_cache_that_cannot_be_written_after_all_is_raised(tmp_path):
    folder = tmp_path / "caches"
    folder.mkdir()

    class Last:
        """Data at whose end the folder goes."""

        def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
            yield from batches(8)
            folder.rmdir()

    with pytest.raises(ArtifactError, match="there is no folder"):
        calibrate(folder / "net.cache", data=Last())


# What is refused before the build


def test_an_iterator_has_no_cache(tmp_path):
    with pytest.raises(SpecError, match="needs data that can be read twice"):
        calibrate(tmp_path / "net.cache", data=batches(8))


def test_a_free_dimension_is_named(tmp_path):
    inputs = (InputSpec(("batch", 3), "x"), INPUTS[1])
    with pytest.raises(SpecError, match="the input x has the free dimension batch"):
        calibrate(tmp_path / "net.cache", inputs=inputs)


def test_an_unknown_method_is_named(tmp_path):
    with pytest.raises(SpecError, match="is 'legacy'") as error:
        calibrate(tmp_path / "net.cache", method="legacy")
    assert error.value.hint == "use entropy or minmax"
