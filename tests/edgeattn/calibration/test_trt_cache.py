"""TensorRT's calibration cache: lines of real caches, round trips, each refusal."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeattn.artifacts import Manifest, Parent
from edgeattn.calibration.table import CalibTable, TensorRange
from edgeattn.calibration.trt_cache import TrtCalibCache, trt_cache_from_table
from edgeattn.errors import ArtifactError, SpecError, TableError

# Lines of caches that TensorRT 7.2 and 8.5 wrote: NVDLA's tutorial on MNIST, an ONNX classifier.
WRITTEN_BY_TENSORRT = b"""TRT-7202-EntropyCalibration2
data: 3c008912
(Unnamed Layer* 4) [Fully Connected]_output: 3d65992f
/conv1/Conv_output_0: 3f9db09c
"""
HEAD = "TRT-100300-EntropyCalibration2\n"


def table(scales: dict[str, float]) -> CalibTable:
    ranges = {name: TensorRange.from_quant_scale(scale) for name, scale in scales.items()}
    return CalibTable("imported", ranges, Manifest("table", {"graph": Parent("net.onnx", "0")}))


def refused(text: str | bytes, reason: str) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(TableError, match=reason) as error:
        TrtCalibCache.from_bytes(data, "net.cache")
    assert error.value.hint
    assert "\n" not in error.value.message


def test_what_tensorrt_wrote_is_read_and_written_to_the_byte():
    cache = TrtCalibCache.from_bytes(WRITTEN_BY_TENSORRT, "mnist.cache")
    assert (cache.version, cache.algorithm) == ("7202", "EntropyCalibration2")
    assert list(cache.quant_scales) == [
        "data",
        "(Unnamed Layer* 4) [Fully Connected]_output",
        "/conv1/Conv_output_0",
    ]
    # 0x3c008912: exponent 120, mantissa 0x008912.
    assert cache.quant_scales["data"] == 2.0**-7 * (1 + 0x008912 / 2**23)
    assert cache.to_bytes() == WRITTEN_BY_TENSORRT


def test_the_range_is_127_steps():
    # 1/127 is 3c010204 in the cache of an input in [0, 1].
    cache = TrtCalibCache.from_bytes(f"{HEAD}images: 3c010204\n".encode(), "net.cache")
    entry = TensorRange.from_quant_scale(cache.quant_scales["images"])
    assert entry.amax == 1.0
    assert entry.quant_scale == np.float32(1) / np.float32(127)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="\n", exclude_categories=("Cs",)), min_size=1),
        st.floats(2.0**-126, 2.0**120, width=32),
        min_size=1,
    )
)
def test_any_names_and_scales_come_back_to_the_last_bit(scales):
    cache = trt_cache_from_table(table(scales), "10.3")
    found = TrtCalibCache.from_bytes(cache.to_bytes(), "net.cache")
    assert list(found.quant_scales.items()) == list(scales.items())
    assert found == cache


def test_names_are_split_from_scales_at_the_last_colon():
    text = f"{HEAD}a: b: 3c010204\na : 3c010204: 3f800000\n"
    cache = TrtCalibCache.from_bytes(text.encode(), "net.cache")
    assert list(cache.quant_scales) == ["a: b", "a : 3c010204"]
    assert cache.quant_scales["a : 3c010204"] == 1.0


@pytest.mark.parametrize(
    ("version", "number"),
    [
        ("10.3", "100300"),
        ("10.3.0", "100300"),
        ("10.3.0.30", "100300"),
        ("10.13.3.9", "101303"),
        ("10.16.1", "101601"),
        ("10.0.1", "100001"),
    ],
)
@pytest.mark.parametrize(
    ("algorithm", "name"), [("entropy", "EntropyCalibration2"), ("minmax", "MinMaxCalibration")]
)
def test_the_header_is_that_of_the_version_and_calibrator(version, number, algorithm, name):
    cache = trt_cache_from_table(table({"x": 0.5}), version, algorithm)
    assert cache.header == f"TRT-{number}-{name}"
    assert cache.to_bytes() == f"TRT-{number}-{name}\nx: 3f000000\n".encode()


@pytest.mark.parametrize("version", ["11.0", "11.4.0.106", "8.6.1", "9.0"])
def test_a_version_that_edgeattn_writes_no_cache_for_is_refused(version):
    with pytest.raises(SpecError, match=f"for TensorRT {version} is of no use") as error:
        trt_cache_from_table(table({"x": 0.5}), version)
    assert "quantize the graph" in error.value.hint


@pytest.mark.parametrize("version", ["", "10", "ten", "10.x", "10.3.", "10.3.0.30.1", "TRT-100300"])
def test_what_is_no_version_is_refused(version):
    with pytest.raises(SpecError, match=r"expected one like 10\.3 or 10\.13\.3"):
        trt_cache_from_table(table({"x": 0.5}), version)


def test_an_unknown_calibrator_is_refused():
    with pytest.raises(SpecError, match="the calibrator is 'legacy'") as error:
        trt_cache_from_table(table({"x": 0.5}), "10.3", "legacy")
    assert error.value.hint == "use entropy or minmax"


@pytest.mark.parametrize("name", ["", "a\nb", "\n"])
def test_a_name_that_is_not_one_line_is_refused(name):
    with pytest.raises(TableError, match="its name is not a line of text"):
        trt_cache_from_table(table({name: 0.5}), "10.3").to_bytes()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x: 3c010204",
        "TRT-100300",
        "TRT-100300-LegacyCalibration",
        "TRT-100300-EntropyCalibration",
        "TRT-8XXX-EntropyCalibration2",
        "TRT--EntropyCalibration2",
        "trt-100300-EntropyCalibration2",
        " TRT-100300-EntropyCalibration2",
        "TRT-100300-EntropyCalibration2\r",
        "TRT-100300-MinMaxCalibration2",
    ],
)
def test_an_unknown_header_is_quoted_and_refused(header):
    refused(f"{header}\nx: 3c010204\n", "the first line of net.cache is '.*'; expected TRT-<vers")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "x",
        "x: ",
        ": 3c010204",
        "x:3c010204",
        "x 3c010204",
        "x: 3c01020",
        "x: 3c0102040",
        "x: 0x3c0102",
        "x: 3c01020g",
        "x: 3c010204 ",
        "x: 3c010204\r",
        "x: -c010204",
        "x: 0.0078125",
    ],
)
def test_a_malformed_line_is_numbered_quoted_and_refused(line):
    refused(f"{HEAD}w: 3c010204\n{line}\ny: 3c010204\n", "line 3 of net.cache is '.*'; expected a ")


def test_a_long_line_is_quoted_in_part():
    with pytest.raises(TableError) as error:
        TrtCalibCache.from_bytes(f"{HEAD}{'x' * 5000}\n".encode(), "net.cache")
    assert len(error.value.message) < 200


def test_a_tensor_that_stands_twice_is_refused_even_with_one_scale():
    text = f"{HEAD}x: 3c010204\ny: 3c010204\nx: 3c010204\n"
    refused(text, "the tensor x stands twice in net.cache, on lines 2 and 4")


@pytest.mark.parametrize(
    ("scale", "written"),
    [
        (0.0, "0"),
        (-0.0, "-0"),
        (-0.5, "-0.5"),
        (1e-40, "9.99995e-41"),
        (2e37, "2e\\+37"),
        (np.inf, "inf"),
        (-np.inf, "-inf"),
        (np.nan, "nan"),
    ],
)
def test_a_scale_that_is_not_positive_and_finite_is_refused(scale, written):
    bits = struct.pack(">f", scale).hex()
    refused(f"{HEAD}x: {bits}\n", f"the scale of x on line 2 of net.cache is {written}; expected a")


NEWLINE = ord("\n")
INSIDE = [
    n
    for n in range(1, len(WRITTEN_BY_TENSORRT))
    if NEWLINE not in WRITTEN_BY_TENSORRT[n - 1 : n + 1]
]


@pytest.mark.parametrize("length", [0, *INSIDE])
def test_a_cache_cut_within_a_line_is_refused(length):
    refused(WRITTEN_BY_TENSORRT[:length], "net.cache")


def test_the_last_line_may_lack_its_end():
    cut = TrtCalibCache.from_bytes(WRITTEN_BY_TENSORRT[:-1], "mnist.cache")
    assert cut == TrtCalibCache.from_bytes(WRITTEN_BY_TENSORRT, "mnist.cache")


def test_a_cache_without_a_tensor_is_refused():
    refused(HEAD, "the calibration cache net.cache holds no tensor")


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"TRT-\xe9\n"])
def test_what_is_no_text_is_refused(data):
    refused(data, "net.cache is not a calibration cache: it is not text")


def test_a_file_comes_back_as_it_was(tmp_path: Path):
    cache = trt_cache_from_table(table({"x": 0.5, "y": 0.25}), "10.16.1", "minmax")
    path = cache.save(tmp_path / "net.cache")
    assert TrtCalibCache.load(path) == cache
    with pytest.raises(ArtifactError, match="there is no file"):
        TrtCalibCache.load(tmp_path / "absent.cache")
