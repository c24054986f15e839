"""Real models after balancing: the same bits, whatever stands between norms and layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeattn.graph.channel_groups import NORM_OPS, balanceable_channels
from edgeattn.graph.export import export
from edgeattn.graph.files import load_graph
from edgeattn.graph.passes.balance_channels import balance_channels
from edgeattn.graph.placement import place_qdq
from edgeattn.inputs import InputSpec
from edgeattn.models.dmsanet import DMSANet
from tests.graph_runs import run, tensors_of
from tests.quantization import floats
from tests.small_swins import HuggingFaceSwin, mswin


def dmsanet() -> nn.Module:
    return DMSANet((1, 1), num_classes=5, width=32, groups=(1, 1))


# Model, size of its input, whether axes stay open, normalizations inside blocks.
MODELS: dict[str, tuple[Callable[[], nn.Module], int, bool, int]] = {
    "Hugging Face Swin": (HuggingFaceSwin, 32, False, 8),
    "mswin": (mswin, 32, True, 8),
    "dmsanet": (dmsanet, 64, False, 0),
}


def exported(name: str, folder: Path) -> onnx.ModelProto:
    build, size, dynamic, _ = MODELS[name]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.manual_seed(0)
        model = build().eval()
        with torch.no_grad():  # what is still at its initial value gets outliers
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
                    tensor.add_(torch.exp(2 * torch.randn(tensor.shape)) * 0.1)
        return load_graph(
            export(model, InputSpec((1, 3, size, size)), folder / "net.onnx", dynamic=dynamic)
        )


@pytest.mark.parametrize("name", MODELS)
def test_a_balanced_model_computes_the_same_bits(tmp_path, name):
    model, (_, size, _, blocks) = exported(name, tmp_path), MODELS[name]
    x = {model.graph.input[0].name: floats(1, 3, size, size)}
    axes = balanceable_channels(model)
    assert axes.keys() <= set(place_qdq(model, "full").activations)
    channel_amax = {}
    for tensor, values in tensors_of(model, list(axes), x).items():
        rows = np.moveaxis(np.abs(values), axes[tensor], -1)
        channel_amax[tensor] = rows.reshape(-1, rows.shape[-1]).max(axis=0)
    result = balance_channels(model, channel_amax)
    np.testing.assert_array_equal(run(result.model, x)[0], run(model, x)[0])
    assert result.amax
    for tensor, values in tensors_of(result.model, list(result.amax), x).items():
        assert np.abs(values).max() == result.amax[tensor]
    norms = [d for d in result.decisions if "blocks" in d.node and d.op_type in NORM_OPS]
    assert len(norms) == blocks
    assert all("are balanced with" in decision.reason for decision in norms)
    assert place_qdq(result.model, "full").activations == place_qdq(model, "full").activations
