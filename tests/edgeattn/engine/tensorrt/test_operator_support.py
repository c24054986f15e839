"""The table of operators against facts that were read off the published lists by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from edgeattn.engine.tensorrt import operator_support as module
from edgeattn.engine.tensorrt.operator_support import (
    TYPE_NAMES,
    max_opset,
    min_opset,
    operator_support,
    table_source,
)
from edgeattn.engine.tensorrt.versions import TensorRtVersion

FLOATS = ("FP32", "FP16", "BF16")
NUMBERS = (*FLOATS, "INT32", "INT64")
ANY = (*NUMBERS, "BOOL")

# onnx-tensorrt, docs/operators.md of TensorRT 10.1, 10.14, 10.16 and 11.1.
IN_ALL = {
    "Add": NUMBERS,
    "Conv": FLOATS,
    "Equal": NUMBERS,
    "Erf": FLOATS,
    "Gather": ANY,
    "Gemm": FLOATS,
    "GridSample": ("FP32", "FP16"),
    "LayerNormalization": FLOATS,
    "MatMul": FLOATS,
    "NonZero": ("FP32", "FP16"),
    "Not": ("BOOL",),
    "QuantizeLinear": FLOATS,
    "ReduceMean": NUMBERS,
    "Reshape": ANY,
    "Shape": ANY,
    "Softmax": FLOATS,
    "Where": ANY,
    "Xor": ("BOOL",),
}
IN_NONE = ("AffineGrid", "BitShift", "Det", "DFT", "Multinomial", "SequenceAt", "Unique")
SINCE = {
    "BlackmanWindow": "10.4",
    "HammingWindow": "10.4",
    "HannWindow": "10.4",
    "STFT": "10.5",
    "Attention": "10.14",
    "RMSNormalization": "10.15",
    "RotaryEmbedding": "10.15",
    "TensorScatter": "10.15",
    "Swish": "11.1",
}
VERSIONS = ("10.3", "10.7", "10.13.3.9", "10.14.1", "10.16.2.10", "11.1", "11.4")


def support(op_type: str, version: str) -> module.OperatorSupport | None:
    return operator_support(op_type, TensorRtVersion.parse(version))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_all_lists_agree_on(version: str) -> None:
    for op_type, types in IN_ALL.items():
        assert support(op_type, version) == module.OperatorSupport(types)
    for op_type in IN_NONE:
        assert support(op_type, version) == module.OperatorSupport(())
    assert support("LinearAttention", version) is None


@pytest.mark.parametrize(("op_type", "since"), SINCE.items())
def test_what_came_later(op_type: str, since: str) -> None:
    first = TensorRtVersion.parse(since)
    for version in VERSIONS:
        found = support(op_type, version)
        assert found is not None
        if TensorRtVersion.parse(version) < first:
            assert found == module.OperatorSupport((), first)
        else:
            assert found.types
            assert found.since is None


def test_types_that_came_later() -> None:
    def types(op_type: str, version: str) -> tuple[str, ...]:
        found = support(op_type, version)
        return found.types if found else ()

    assert types("Pow", "10.11") == FLOATS
    assert types("Pow", "10.12") == NUMBERS
    assert types("DequantizeLinear", "10.7") == ("INT8", "FP8", "INT4")
    assert types("DequantizeLinear", "10.8") == ("INT8", "FP8", "FP4", "INT4")


@pytest.mark.parametrize(
    ("version", "newest"), [("10.3", 20), ("10.13.3.9", 20), ("10.14", 24), ("11.4", 24)]
)
def test_the_opsets_are_those_of_the_newest_list_that_is_not_newer(
    version: str, newest: int
) -> None:
    parsed = TensorRtVersion.parse(version)
    assert (min_opset(parsed), max_opset(parsed)) == (9, newest)


def test_the_source_names_list_commit_and_date() -> None:
    assert table_source(TensorRtVersion(10, 3)) == (
        "onnx-tensorrt, docs/operators.md of TensorRT 10.1 (96e78110, 2024-06-17), and its "
        "changelog"
    )
    assert "TensorRT 10.16 (6bde6596, 2026-03-24)" in table_source(TensorRtVersion(10, 16, 2, 10))


def test_the_names_of_types_are_those_of_onnx() -> None:
    for element, name in TYPE_NAMES.items():
        if name != "FP4":  # onnx has a name for it from 1.18 on
            assert TensorProto.DataType.Name(element)
    if hasattr(TensorProto, "FLOAT4E2M1"):
        assert TYPE_NAMES[TensorProto.FLOAT4E2M1] == "FP4"


def test_all_operators_of_the_table_are_of_the_standard_or_were() -> None:
    names = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    table = json.loads(module._TABLE.read_text())
    removed = {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}
    assert set(table["operators"]) - names <= removed


LIST = """
TensorRT 10.0 supports operators in the inclusive range of opset 9 to opset {newest}. More below.

| Operator | Supported  | Supported Types | Restrictions |
|----------|------------|-----------------|--------------|
| Abs      | Y          | FP32, FP16      |
| Det      | N          |
{more}
| Shape    | Y          | FP32, INF64, | `axes` or not |
"""


def test_the_table_is_derived_from_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(__file__).parents[4] / "docs" / "refresh_operators.py"
    for version in ("10.1", "10.14", "10.16", "11.1"):
        more = "| STFT | N |" if version == "10.1" else "| STFT | Y | FP32| real |"
        text = LIST.format(newest=20 if version == "10.1" else 24, more=more)
        (tmp_path / f"{version}.md").write_text(text)
    before = module._TABLE.read_bytes()
    code = (
        "import runpy, pathlib, sys; "
        f"sys.argv = ['refresh', {str(tmp_path)!r}]; "
        f"names = runpy.run_path({str(script)!r}); "
        f"names['main'].__globals__['OUTPUT'] = pathlib.Path({str(tmp_path / 'out.json')!r}); "
        "names['main']()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert module._TABLE.read_bytes() == before
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["operators"] == {
        "Abs": {"10.1": "FP32 FP16"},
        "Det": {"10.1": ""},
        "STFT": {"10.1": "", "10.5": "FP32"},
        "Shape": {"10.1": "FP32 INT64"},
    }
    assert written["lists"]["10.14"]["opsets"] == [9, 24]
    assert written["lists"]["10.1"]["commit"].startswith("96e78110")
