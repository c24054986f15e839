"""What a real TensorRT tells of real engines: the proof has to find its way in it.

No printout of an engine with our plugin or of TensorRT 11 was at hand when the reader was written.
Here both are met for the first time; a failure prints the layers that were not understood.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeattn.engine.tensorrt.build import build_plan
from edgeattn.engine.tensorrt.build_report import describe_report, make_build_report
from edgeattn.engine.tensorrt.inspector import parse_engine_info
from edgeattn.engine.tensorrt.layer_kinds import PRODUCT_KINDS, kind_of_layer
from edgeattn.engine.tensorrt.lowering import lower_for_tensorrt
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.engine.tensorrt.precision import PrecisionShares, check_required_precision
from edgeattn.engine.tensorrt.versions import installed_version
from edgeattn.graph.passes.half import convert_to_half
from edgeattn.plugin.build import find_plugin_library
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.cases import Case
from tests.quantized_attention import input_of, layer, quantized

pytestmark = [pytest.mark.gpu, pytest.mark.tensorrt]


@pytest.fixture
def timing_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "proof.timing"


def prove(
    folder: Path, timing_cache: Path, way: str, precision: str, **options: Any
) -> tuple[dict[str, Any], str]:
    """Build attention between two layers; give the report and the inspector's text."""
    group = HeadGroup(4, (8, 8))
    case = Case(AttentionSpec(32, 4, (group,), has_bias=True), 32, 32, batch=2)
    model = layer(case)
    if "int8" in precision:
        model, _ = quantized(model, input_of(case))
    model, _ = convert_to_half(model, "float16")
    lowered = lower_for_tensorrt(model, installed_version(), way=way)
    built = build_plan(
        lowered, TensorRtOptions(timing_cache=timing_cache, **options), folder / "attention.engine"
    )
    report = make_build_report(built, lowered, ())
    print("\n".join([*describe_report(report), built.inspector]))  # noqa: T201 - of failed tests
    return report, built.inspector


@pytest.mark.parametrize("precision", ["fp16", "int8+fp16"])
def test_every_product_of_an_engine_is_shown_in_its_type(tmp_path, timing_cache, precision):
    report, text = prove(tmp_path, timing_cache, "native", precision)
    info = parse_engine_info(text)
    assert info.verbosity == "detailed"
    assert info.schema == ("11" if installed_version().major >= 11 else "10")
    assert report["inspector"]["fault"] == ""
    assert report["precision"]["unproven"] == []
    (finding,) = report["attention"]
    assert finding["verdict"] in ("fused", "unfused")
    assert PRODUCT_KINDS & {kind_of_layer(each) for each in info.layers}


@pytest.mark.parametrize("precision", ["fp16", "int8+fp16"])
def test_the_plugin_is_found_in_its_engine(tmp_path, timing_cache, precision):
    library = find_plugin_library(installed_version().major)
    if library is None:
        pytest.skip("needs the plugin library: edgeattn plugin build")
    report, _ = prove(tmp_path, timing_cache, "plugin", precision, plugin=library)
    (finding,) = report["attention"]
    assert (finding["verdict"], finding["reasons"]) == ("plugin", [])
    assert report["precision"]["unproven"] == []
    if precision == "fp16":
        shares = PrecisionShares.from_dict(report["precision"])
        check_required_precision(shares, "fp16")


@pytest.mark.parametrize("verbosity", ["layer_names", "none"])
def test_an_engine_that_tells_less_is_reported_too(tmp_path, timing_cache, verbosity):
    report, _ = prove(tmp_path, timing_cache, "native", "fp16", profiling_verbosity=verbosity)
    assert report["inspector"]["verbosity"] == verbosity
    assert report["attention"][0]["verdict"] == "unknown"
    assert report["precision"]["asked"] == {"float16": 4}
