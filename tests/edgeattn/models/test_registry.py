"""The registry: every model builds, runs and is counted; wrong names get a hint."""

import logging
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from edgeattn.errors import ArtifactError, MissingDependencyError, ModelError
from edgeattn.inputs import InputSpec
from edgeattn.models import registry
from edgeattn.models.attention import MultiHeadSelfAttention
from edgeattn.models.registry import (
    count_macs,
    count_parameters,
    create_model,
    get_entry,
    model_names,
)
from edgeattn.models.weights_io import save_weights


def test_the_families_of_the_design_are_all_there():
    assert {get_entry(name).family for name in model_names()} == {
        "mswin",
        "msseq",
        "pmsa",
        "dmsanet",
    }
    assert {"mswin_nano", "mswin_base", "msseq_tiny", "pmsa_nano", "dmsanet_101"} <= set(
        model_names()
    )


@pytest.mark.parametrize("name", model_names())
def test_every_model_runs_on_its_input_and_is_counted(name):
    entry = get_entry(name)
    model = entry.build(shapes_only=True).eval()
    assert all(parameter.is_meta for parameter in model.parameters())
    logits = model(torch.empty(entry.input.shape, device="meta"))
    assert logits.ndim == 2
    assert logits.shape[0] == entry.input.shape[0]
    assert entry.classes == () or logits.shape[1] == len(entry.classes)
    assert count_parameters(model) > 10_000
    assert count_macs(model, entry.input) > 100_000


@pytest.mark.parametrize("name", model_names())
def test_every_entry_reads_well(name):
    entry = get_entry(name)
    assert entry.name == name
    assert re.fullmatch(r"[A-Z].*\.", entry.summary)
    assert all(isinstance(dim, int) for dim in entry.input.shape)
    channels = entry.input.preprocess and len(entry.input.preprocess.mean)
    assert channels in (None, entry.input.shape[1])
    assert (entry.weights is None) == ("random weights" in entry.summary)


def test_models_are_listed_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from edgeattn.models.registry import create_model, get_entry, model_names\n"
        "print(len([get_entry(name) for name in model_names()]))\n"
        "try:\n    create_model('mswin_nano')\n"
        "except ImportError as error:\n    print(type(error).__name__, error.hint)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, error = out.stdout.splitlines()
    assert int(count) == len(model_names())
    assert error == f'{MissingDependencyError.__name__} pip install "edgeattn[export]"'


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mswin_tinny", "mswin_tiny"),
        ("MSWin-Nano", "mswin_nano"),
        ("dmsanet50", "dmsanet_50"),
        ("resnet", "known: mswin_nano, "),
    ],
)
def test_an_unknown_name_gets_its_near_misses(name, hint):
    with pytest.raises(ModelError, match=re.escape(repr(name))) as error:
        get_entry(name)
    assert hint in error.value.hint


def test_random_weights_are_the_same_every_time_and_leave_the_random_state_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = create_model("mswin_nano", weights=None)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(4)
    second = create_model("mswin_nano", weights=None)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert not first.training


def test_a_model_without_shipped_weights_says_so(caplog, monkeypatch):
    monkeypatch.setattr(registry.ModelEntry, "build", lambda entry: nn.Linear(1, 1))
    with caplog.at_level(logging.WARNING):
        create_model("mswin_base")
        assert caplog.messages == ["mswin_base ships no weights: they are random"]
        caplog.clear()
        create_model("mswin_base", weights=None)
        assert not caplog.messages


def test_weights_are_read_from_a_file(tmp_path):
    model = create_model("mswin_nano", weights=None)
    nn.init.constant_(model.head.bias, 7.0)
    save_weights(model, tmp_path / "w.safetensors")
    again = create_model("mswin_nano", weights=tmp_path / "w.safetensors")
    assert torch.equal(again.head.bias, model.head.bias)
    with pytest.raises(ArtifactError, match="there is no file"):
        create_model("mswin_nano", weights=tmp_path / "other.safetensors")


def test_parameters_are_counted_without_buffers():
    assert count_parameters(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))) == 16 + 8


def test_multiply_accumulates_are_those_of_the_products():
    tokens, dim = 10, 12
    layer = MultiHeadSelfAttention(dim, 3)
    expected = tokens * dim * 4 * dim + 2 * tokens * tokens * dim
    assert count_macs(layer, InputSpec((1, tokens, dim))) == expected
    convolution = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    assert count_macs(convolution, InputSpec((2, 3, 9, 9))) == 2 * 25 * 8 * 27


def test_multiply_accumulates_need_static_sizes():
    with pytest.raises(ModelError, match="expected static sizes"):
        count_macs(nn.Linear(3, 3), InputSpec(("batch", 3)))
