"""Which tensors of real models become INT8: the same set however the graph is written.

Each model is exported as torch traces it, and simplified by onnxsim. The models hold attention as
one node, as plain products over all tokens, and as Hugging Face writes Swin: rolled, partitioned,
masked, in blocks with and without a shift.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import pytest
import torch
from onnx import helper
from torch import Tensor, nn

from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.explicit_int8 import explicit_int8_faults
from edgeattn.graph.export import export
from edgeattn.graph.files import load_graph
from edgeattn.graph.nodes import node_label
from edgeattn.graph.op import attention_nodes, spec_of_node
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.fold_qdq import fold_attention_qdq
from edgeattn.graph.passes.insert_qdq import insert_qdq
from edgeattn.graph.passes.int8_mha import lower_int8_mha
from edgeattn.graph.placement import RECIPES, Placement, place_qdq
from edgeattn.graph.simplify import SKIPPED_OPTIMIZERS
from edgeattn.graph.verify import run_graph
from edgeattn.inputs import InputSpec
from edgeattn.models.attention import MultiHeadSelfAttention
from edgeattn.models.blocks import TransformerBlock
from edgeattn.models.dmsanet import DMSANet
from edgeattn.models.registry import create_model, get_entry
from tests.quantization import floats
from tests.small_swins import HuggingFaceSwin, mswin


class Plain(nn.Module):
    """Two blocks of attention over all tokens, in plain products."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 4, 4)
        self.blocks = nn.Sequential(
            *(TransformerBlock(32, MultiHeadSelfAttention(32, 2)) for _ in range(2))
        )
        self.head = nn.Linear(32, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 3, H, W]` to `[B, 5]`."""
        return self.head(self.blocks(self.stem(images).permute(0, 2, 3, 1)).mean((1, 2)))


def dmsanet() -> nn.Module:
    return DMSANet((1, 1), num_classes=5, width=32, groups=(1, 1))


IMAGES = InputSpec((1, 3, 32, 32))
MODELS: dict[str, tuple[Callable[[], nn.Module], InputSpec]] = {
    "plain": (Plain, IMAGES),
    "Hugging Face Swin": (HuggingFaceSwin, IMAGES),
    "mswin": (mswin, IMAGES),
    "dmsanet": (dmsanet, InputSpec((1, 3, 64, 64))),
    "pmsa_nano": (lambda: create_model("pmsa_nano"), get_entry("pmsa_nano").input),
    "msseq_nano": (lambda: create_model("msseq_nano"), get_entry("msseq_nano").input),
}


def randomized(model: nn.Module) -> nn.Module:
    """Draw what is still at its initial 0 or 1, so that no part of the model is idle."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.3)
    return model.eval()


class Graphs:
    """Exports each model once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, tuple[onnx.ModelProto, ...]] = {}

    def __getitem__(self, name: str) -> tuple[onnx.ModelProto, ...]:
        """Give the graph as traced, simplified as `export` does, and by all that onnxsim knows."""
        if name not in self._made:
            build, spec = MODELS[name]
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter's own
                torch.manual_seed(0)
                path = export(randomized(build()), spec, self._folder / "net.onnx", simplify=False)
            traced = load_graph(path)
            self._made[name] = (
                traced,
                *(
                    onnxsim.simplify(traced, check_n=0, skipped_optimizers=skipped)[0]
                    for skipped in (SKIPPED_OPTIMIZERS, [])
                ),
            )
        return self._made[name]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory) -> Graphs:
    return Graphs(tmp_path_factory.mktemp("graphs"))


def input_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    (value,) = model.graph.input
    return {value.name: floats(*(dim.dim_value for dim in value.type.tensor_type.shape.dim))}


def amaxes(model: onnx.ModelProto, tensors: tuple[str, ...]) -> dict[str, float]:
    """Run a graph and find the largest magnitude of tensors."""
    probe = onnx.ModelProto()
    probe.CopyFrom(decompose(model))
    del probe.graph.output[:]
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in tensors
    )
    values = run_graph(probe, input_of(model))
    return {name: float(np.abs(a).max()) for name, a in zip(tensors, values, strict=True)}


def scales(model: onnx.ModelProto, recipe: str) -> dict[str, float]:
    found = amaxes(model, place_qdq(model, recipe).activations)
    return {name: float(np.float32(amax / 127)) for name, amax in found.items()}


def reads(placement: Placement) -> Counter:
    return Counter(read.reason for each in placement.reads.values() for read in each)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", MODELS)
def test_the_same_tensors_are_quantized_before_and_after_simplification(graphs, name, recipe):
    models = graphs[name]
    traced, simplified, rewritten = (place_qdq(model, recipe) for model in models)
    assert set(traced.activations) == set(simplified.activations)
    assert reads(traced) == reads(simplified) == reads(rewritten)
    assert sorted(traced.outputs.values()) == sorted(simplified.outputs.values())
    # onnxsim's other passes rename tensors; those that are quantized hold the same values.
    ranges = [
        sorted(amaxes(model, placement.activations).values())
        for model, placement in ((models[0], traced), (models[2], rewritten))
    ]
    np.testing.assert_allclose(ranges[0], ranges[1], rtol=1e-4)


# Beyond the inputs of layers: products of attention, attention nodes' inputs, skip branches, pools.
FOUND = {
    "plain": (4, 0, 4, 0),
    "Hugging Face Swin": (8, 0, 4, 0),  # windows are put back between a projection and its sum
    "mswin": (0, 4, 8, 0),
    "dmsanet": (4, 2, 2, 1),  # products of channels, nodes of positions
    "pmsa_nano": (0, 12, 8, 0),
    "msseq_nano": (0, 4, 8, 0),
}


@pytest.mark.parametrize("name", MODELS)
def test_attention_is_found_in_every_form(graphs, name):
    products, nodes, skips, pools = FOUND[name]
    for model in graphs[name]:
        assert not place_qdq(model, "linear").reads
        for recipe, expected in (
            ("attention", (products, nodes, 0, 0)),
            ("full", (products, nodes, skips, pools)),
        ):
            placement = place_qdq(model, recipe)
            op_types = Counter(model.graph.node[index].op_type for index in placement.reads)
            found = (
                op_types["MatMul"],
                op_types["MultiScaleWindowAttention"],
                op_types["Add"],
                op_types["MaxPool"],
            )
            assert found == expected
            assert len(placement.outputs) == nodes


def by_block(model: onnx.ModelProto, placement: Placement) -> dict[str, Counter]:
    """Count what each block reads in INT8, by operator and reason, layers by their module."""
    blocks: dict[str, Counter] = {}
    for index, node in enumerate(model.graph.node):
        match = re.search(r"(?:layers|stages)\.\d+\.blocks\.\d+", node_label(node))
        if match:
            counter = blocks.setdefault(match.group(), Counter())
            counter.update(read.reason for read in placement.reads.get(index, ()))
            if index in placement.linears:
                counter.update([node_label(node)[match.end() :]])
    return blocks


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["Hugging Face Swin", "mswin"])
@pytest.mark.parametrize("form", [0, 1], ids=["traced", "simplified"])
def test_blocks_with_and_without_a_shift_are_quantized_alike(graphs, name, recipe, form):
    model = graphs[name][form]
    blocks = by_block(model, place_qdq(model, recipe))
    assert len(blocks) == 4
    first, *others = blocks.values()
    assert first
    assert all(block == first for block in others)


@pytest.mark.parametrize("name", ["mswin", "msseq_nano"])
def test_a_decomposed_graph_quantizes_the_tensors_of_the_one_with_nodes(graphs, name):
    model = graphs[name][1]
    standard = decompose(model)
    simplified = onnxsim.simplify(standard)[0]
    for recipe in RECIPES:
        placements = [place_qdq(graph, recipe) for graph in (model, standard, simplified)]
        assert placements[1].activations == placements[2].activations
        ranges = [
            sorted(
                amaxes(
                    graph, tuple(dict.fromkeys(n.activation for n in p.linears.values()))
                ).values()
            )
            for graph, p in zip((model, standard), placements[:2], strict=True)
        ]
        # The layers read the same values; their tensors have other names.
        np.testing.assert_allclose(ranges[0], ranges[1], rtol=1e-6)
        if recipe != "linear":
            # A node's one input stands for the query, key and value of each of its groups.
            nodes = attention_nodes(model)
            groups = sum(len(spec_of_node(node).head_groups) for node in nodes)
            products = Counter(len(r) for r in placements[1].reads.values())
            assert products[2] == 2 * groups


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_keeps_tensorrts_rules_and_computes_the_model(graphs, name, recipe):
    model = graphs[name][1]
    quantized, decisions = insert_qdq(model, scales(model, recipe), recipe)
    folded = fold_attention_qdq(quantized)
    lowered = lower_int8_mha(quantized).model
    for graph in (quantized, folded, lowered):
        assert explicit_int8_faults(graph) == []
    x = input_of(model)
    (reference,) = run_graph(model, x)
    for graph in (quantized, folded, lowered):
        assert sqnr_db(reference, run_graph(graph, x)[0]) > 15
    folds = {bool(spec_of_node(node).out_quant_scale) for node in attention_nodes(folded)}
    assert folds <= {recipe != "linear"}
    # Each float tensor that a node reads, and each weight of a layer, is accounted for.
    assert all(decision.reason for decision in decisions)
    listed = {decision.tensor for decision in decisions}
    for node in model.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax", "Gelu", "Relu", "Add"):
            assert any(name in listed for name in node.input)
