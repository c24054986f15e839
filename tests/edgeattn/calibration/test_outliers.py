"""A shipped model with outlier channels planted: the same network, which INT8 ruins unbalanced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgeattn
from edgeattn.arrays import read_arrays
from edgeattn.calibration.judge import OutputJudge
from edgeattn.calibration.recipe import load_recipe
from edgeattn.graph.channel_groups import find_channel_groups
from edgeattn.graph.constants import Constants
from edgeattn.graph.files import embedded_manifest, load_graph, save_graph

OUTLIER = np.float32(32)


def plant_outliers(model: onnx.ModelProto) -> None:
    """Write two channels of each normalization larger, and let its layer read them smaller."""
    constants, nodes = Constants(model), model.graph.node
    rng = np.random.default_rng(0)
    for group in find_channel_groups(model):
        source = nodes[group.source]
        if group.obstacle or source.op_type != "LayerNormalization":
            continue
        factors = np.ones(group.size, np.float32)
        factors[rng.choice(group.size, 2, replace=False)] = OUTLIER
        changed = [(source, slot, constants.value(source.input[slot]) * factors) for slot in (1, 2)]
        (reader,) = (nodes[index] for index in group.readers)
        weight = constants.value(reader.input[1])
        transposed = any(a.name == "transB" and a.i for a in reader.attribute)
        changed.append((reader, 1, weight / (factors if transposed else factors[:, None])))
        for node, slot, values in changed:
            name = f"{node.input[slot]}/planted"
            model.graph.initializer.append(numpy_helper.from_array(values, name))
            node.input[slot] = name


@pytest.mark.slow
def test_balancing_makes_up_for_planted_outliers(tmp_path):
    graph = edgeattn.export("mswin_nano", output=tmp_path / "net.onnx", dynamic=True)
    data = Path(load_recipe("mswin_nano").data)
    digits = {"input": read_arrays(data.parent / "heldout.npz")["input"][::5]}
    model = load_graph(graph)
    judge = OutputJudge(model, digits)
    plant_outliers(model)
    for name, values in judge.outputs(model).items():
        np.testing.assert_array_equal(values, judge.reference[name])

    def decibels(graph: Path, **options: object) -> float:
        table = edgeattn.calibrate(graph, recipe="mswin_nano", method="minmax")
        typed = edgeattn.quantize(graph, table=table, **options)
        return judge.sqnr_db(load_graph(typed))

    planted = save_graph(model, tmp_path / "planted.onnx", embedded_manifest(model, "net.onnx"))
    clean, ruined = decibels(graph), decibels(planted)
    balanced = decibels(planted, balance=0.5)
    corrected = decibels(planted, balance=0.5, correct_bias=True, data=data)
    assert ruined < clean - 10, (clean, ruined)
    assert balanced > clean - 1, (clean, balanced)
    assert corrected > clean - 1, (clean, corrected)
