"""Every small model of the registry, in every form that we write, for every TensorRT of a board."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import edgeattn
from edgeattn.deploy.check.check import check_graph
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.graph.files import load_graph
from edgeattn.graph.passes.half import convert_to_half
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.models.registry import create_model, get_entry
from edgeattn.targets import TARGETS
from tests.quantization import unit_scales

# One board for each TensorRT.
BOARDS = {
    jetpack.tensorrt: (name, jetpack.version)
    for name, target in TARGETS.items()
    for jetpack in target.jetpacks
}


def forms(graph: onnx.ModelProto) -> dict[str, onnx.ModelProto]:
    """Write a graph in each precision; of what its scales are, the check asks nothing."""
    int8 = insert_qdq(graph, unit_scales(graph, 0.05, "linear"), "linear")[0]
    return {
        "fp32": graph,
        "fp16": convert_to_half(graph, "float16")[0],
        "bf16": convert_to_half(graph, "bfloat16")[0],
        "int8": int8,
        "int8+fp16": convert_to_half(int8, "float16")[0],
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("portable", "dynamic"),
    [(False, False), (False, True), (True, True)],
    ids=["fixed", "open", "portable"],
)
@pytest.mark.parametrize("name", ["mswin_nano", "pmsa_nano", "msseq_nano"])
def test_no_graph_of_ours_has_an_error_on_any_board(
    name: str, portable: bool, dynamic: bool, tmp_path: Path
) -> None:
    path = edgeattn.export(
        create_model(name, weights="shipped"),
        get_entry(name).input,
        tmp_path / "net.onnx",
        dynamic=dynamic,
        portable=portable,
    )
    for form, graph in forms(load_graph(path)).items():
        onnx.save(graph, path)
        for target, jetpack in BOARDS.values():
            checked = check_graph(path, TensorRtRequest(target=target, jetpack=jetpack))
            assert checked.errors == [], (form, target, jetpack)
            topics = {f.topic for f in checked.findings if f.level == "warning"}
            # What is written out in float32 is not fused, and that is said.
            assert topics <= {"attention"}, (form, checked.findings)
