"""The walk over a model: what is swapped, what is left and why, and users' own classes."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import edgeattn
from edgeattn import HeadGroup
from edgeattn.errors import ModelError
from edgeattn.models.adapters import (
    AdaptedAttention,
    PartlyAdaptedWarning,
    adapt_with_report,
    register_adapter,
    registry,
)
from edgeattn.models.attention import MultiHeadSelfAttention, MultiScaleWindowAttention
from tests.adapted import exported_attention_nodes


class RowAttention(nn.Module):
    """Attention along each row of a map, as a user might have written it."""

    def __init__(self, dim=8, num_heads=2):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        heads = self.qkv(x).unflatten(3, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        query, key, value = heads.unbind(0)  # [B, H, nH, W, D] each
        logits = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        return self.proj((logits.softmax(-1) @ value).transpose(2, 3).flatten(3))


class NarrowRowAttention(RowAttention):
    """A class of its own, though derived."""


def row_attention_of_ours(theirs):
    if theirs.num_heads == 3:
        raise ModelError("three heads are too many")
    dim = theirs.proj.in_features
    group = HeadGroup(theirs.num_heads, window_size=(1, 0))
    ours = MultiScaleWindowAttention(dim, [group], relative_position_bias=False)
    ours.qkv, ours.proj = theirs.qkv, theirs.proj
    return ours


@pytest.fixture
def row_adapter(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    register_adapter(RowAttention, row_attention_of_ours)


def test_a_class_of_the_users_is_swapped_and_computes_the_same(row_adapter, tmp_path):
    theirs = nn.Sequential(nn.Conv2d(3, 8, 1), Permute(0, 2, 3, 1), RowAttention()).eval()
    ours = edgeattn.adapt(theirs)
    images = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-6)
    assert exported_attention_nodes(ours, (5, 7), tmp_path) == 1


class Permute(nn.Module):
    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(self.axes)


def test_a_copy_is_changed_unless_the_model_itself_is_asked_for(row_adapter):
    model = nn.Sequential(RowAttention())
    changed = edgeattn.adapt(model)
    assert isinstance(changed[0], MultiScaleWindowAttention)
    assert isinstance(model[0], RowAttention)
    assert changed[0].qkv.weight is not model[0].qkv.weight
    weight = model[0].qkv.weight
    assert edgeattn.adapt(model, inplace=True) is model
    assert isinstance(model[0], MultiScaleWindowAttention)
    assert model[0].qkv.weight is weight


def test_a_module_used_twice_stays_one_module(row_adapter):
    shared = RowAttention()
    changed = adapt_with_report(nn.ModuleDict({"a": shared, "b": nn.ModuleList([shared, shared])}))
    model = changed.module
    assert isinstance(model["a"], MultiScaleWindowAttention)
    assert model["a"] is model["b"][0] is model["b"][1]
    assert [a.name for a in changed.attentions] == ["a"]


def test_the_mode_of_each_module_is_kept(row_adapter):
    model = nn.Sequential(RowAttention(), RowAttention().eval())
    changed = edgeattn.adapt(model)
    assert [m.training for m in changed] == [True, False]


def test_what_is_left_is_listed_with_the_reason(row_adapter):
    model = nn.Sequential(
        RowAttention(6, 3),
        RowAttention(),
        NarrowRowAttention(),
        nn.TransformerEncoderLayer(8, 2),
        nn.Linear(8, 8),
        MultiHeadSelfAttention(8, 2),
    )
    with pytest.warns(PartlyAdaptedWarning, match="1 of 5 attentions; 0: three heads are too many"):
        report = adapt_with_report(model)
    here = RowAttention.__module__
    spec = report.module[1].spec
    assert report.attentions == (
        AdaptedAttention("0", f"{here}.RowAttention", False, "three heads are too many"),
        AdaptedAttention("1", f"{here}.RowAttention", True, specs=(spec,)),
        AdaptedAttention(
            "2",
            f"{here}.NarrowRowAttention",
            False,
            f"no adapter for the class {here}.NarrowRowAttention",
        ),
        AdaptedAttention(
            "3.self_attn",
            "torch.nn.modules.activation.MultiheadAttention",
            False,
            "no adapter for the class torch.nn.modules.activation.MultiheadAttention",
        ),
        AdaptedAttention(
            "5",
            "edgeattn.models.attention.MultiHeadSelfAttention",
            False,
            "no adapter for the class edgeattn.models.attention.MultiHeadSelfAttention",
        ),
    )
    assert report.adapted == report.attentions[1:2]
    assert len(report.left) == 4
    lines = str(report).splitlines()
    assert lines[0] == "1 attentions adapted, 4 left"
    assert lines[2] == "1: 2 heads, block window 1x0"


def test_nothing_to_adapt_is_one_clear_error():
    with pytest.raises(ModelError, match="Sequential holds no attention that can be adapted") as e:
        edgeattn.adapt(nn.Sequential(nn.Linear(2, 2)))
    assert "register_adapter" in e.value.hint
    assert "edgeattn fuse" in e.value.hint
    with pytest.raises(ModelError, match=r"adapted; 0: no adapter for the class .*RowAttention"):
        edgeattn.adapt(nn.Sequential(RowAttention()))


def test_an_adapted_model_holds_nothing_more_to_adapt(row_adapter):
    changed = edgeattn.adapt(nn.Sequential(RowAttention()))
    with pytest.raises(ModelError, match="holds no attention"):
        edgeattn.adapt(changed)


def test_an_adapted_model_can_be_copied_and_saved(row_adapter):
    changed = edgeattn.adapt(nn.Sequential(RowAttention())).eval()
    maps = torch.randn(1, 3, 5, 8)
    expected = changed(maps)
    for again in (copy.deepcopy(changed), pickle.loads(pickle.dumps(changed))):
        torch.testing.assert_close(again(maps), expected)


@pytest.mark.parametrize("cls", [RowAttention(), "RowAttention", int])
def test_what_is_no_module_class_is_refused(cls):
    with pytest.raises(ModelError, match="no class of modules"):
        register_adapter(cls, row_attention_of_ours)


def test_what_is_no_function_is_refused():
    with pytest.raises(ModelError, match="adapter of RowAttention is 3; expected a function"):
        register_adapter(RowAttention, 3)


def test_each_known_class_is_named_in_the_document():
    page = (Path(__file__).parents[4] / "docs" / "adapters.md").read_text()
    classes = [cls for known in registry._KNOWN.values() for cls in known]
    assert [cls for cls in classes if f"`{cls}`" not in page] == []


def test_neither_library_is_imported_to_adapt_a_model_of_neither():
    code = (
        "import sys, edgeattn\n"
        "from torch import nn\n"
        "try: edgeattn.adapt(nn.Linear(2, 2))\n"
        "except edgeattn.EdgeAttnError: print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "edgeattn" in loaded
    assert not loaded & {"timm", "transformers", "torchvision", "onnx"}
