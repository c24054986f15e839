"""The sequence model: sliding windows, causality, statistics, any length, export."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edgeattn.errors import SpecError
from edgeattn.models.sequence import MSSeq, msseq_nano, msseq_tiny

DYNAMIC = torch.export.Dim.DYNAMIC


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def small(**keywords: object) -> MSSeq:
    defaults = {"dim": 12, "depth": 1, "num_heads": 3, "windows": (1, 3, 5), "patch_size": 4}
    return MSSeq(2, 3, **{**defaults, **keywords}).double().eval()


def changed_tokens(net: MSSeq, length: int, sample: int) -> list[int]:
    """Find the tokens that change with one sample."""
    x = torch.randn(1, 2, length, dtype=torch.float64)
    other = x.clone()
    other[0, :, sample] += 1
    differs = (net.tokens(x) != net.tokens(other)).any(dim=3)
    return torch.nonzero(differs[0, 0]).flatten().tolist()


def test_a_token_sees_as_far_as_the_largest_window() -> None:
    assert changed_tokens(small(), 80, sample=41) == [8, 9, 10, 11, 12]
    assert changed_tokens(small(windows=(1, 1, 3)), 80, sample=41) == [9, 10, 11]
    assert changed_tokens(small(depth=2), 80, sample=41) == list(range(6, 15))


def test_a_causal_token_sees_itself_and_earlier_ones() -> None:
    assert changed_tokens(small(causal=True), 80, sample=41) == [10, 11, 12, 13, 14]
    assert changed_tokens(small(causal=True), 80, sample=0) == [0, 1, 2, 3, 4]


def test_a_causal_model_gives_the_same_tokens_while_the_signal_goes_on() -> None:
    net = small(causal=True, depth=3)
    x = torch.randn(2, 2, 60, dtype=torch.float64)
    torch.testing.assert_close(net.tokens(x[:, :, :32]), net.tokens(x)[:, :, :8])


def test_each_window_has_its_own_heads() -> None:
    spec = msseq_tiny().blocks[0].attention.spec
    assert [(g.num_heads, g.window_size, g.mode) for g in spec.head_groups] == [
        (2, (1, 9), "neighborhood"),
        (2, (1, 33), "neighborhood"),
        (2, (1, 129), "neighborhood"),
    ]


@pytest.mark.parametrize("length", [1, 3, 4, 17, 100])
def test_every_length_works(length: int) -> None:
    x = torch.randn(2, 2, length, dtype=torch.float64)
    net = small()
    assert net(x).shape == (2, 3)
    assert net.tokens(x).shape == (2, 1, -(-length // 4), 12)
    assert net(x).isfinite().all()


def test_the_last_patch_is_filled_up_with_the_mean() -> None:
    mean = (3.0, -1.0)
    net = small(input_mean=mean, input_std=(2.0,))
    x = torch.randn(1, 2, 9, dtype=torch.float64)
    filled = torch.cat([x, torch.tensor(mean).double()[None, :, None].expand(1, 2, 3)], dim=2)
    torch.testing.assert_close(net(x), net(filled))


def test_statistics_bring_signals_of_any_unit_to_the_same_scale() -> None:
    plain = small()
    scaled = small(input_mean=(5.0, -2.0), input_std=(10.0, 0.1))
    statistics = {"input_mean", "input_std"}
    weights = {k: v for k, v in plain.state_dict().items() if k not in statistics}
    assert not scaled.load_state_dict(weights, strict=False).unexpected_keys
    x = torch.randn(2, 2, 40, dtype=torch.float64)
    factor, offset = torch.tensor([10.0, 0.1]), torch.tensor([5.0, -2.0])
    torch.testing.assert_close(
        scaled(x * factor[:, None] + offset[:, None]), plain(x), rtol=1e-6, atol=1e-6
    )
    assert statistics <= scaled.state_dict().keys()


@pytest.mark.parametrize("causal", [False, True])
def test_the_exported_model_takes_other_lengths(causal: bool) -> None:
    net = msseq_nano(causal=causal).eval()
    x = torch.randn(2, 6, 100)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: DYNAMIC, 2: DYNAMIC},)).module()
    for shape in ((2, 6, 100), (1, 6, 57), (3, 6, 202)):
        x = torch.randn(shape)
        torch.testing.assert_close(exported(x), net(x))


def test_the_sizes_of_the_models() -> None:
    nano, tiny = msseq_nano(), msseq_tiny()
    assert sum(p.numel() for p in nano.parameters()) < 950_000
    assert nano(torch.zeros(2, 6, 100)).shape == (2, 4)
    assert tiny(torch.zeros(1, 6, 1000)).shape == (1, 10)


def test_every_parameter_gets_a_gradient() -> None:
    net = small(drop_path=0.2).train()
    logits: Tensor = net(torch.randn(4, 2, 40, dtype=torch.float64))
    logits.square().sum().backward()
    # A window of one token has one bias entry per head, which the softmax cancels.
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"input_mean": (0.0, 0.0, 0.0)}, "input_mean has 3 values; expected 1 or 2"),
        ({"input_std": (1.0, 0.0)}, "expected positive values"),
        ({"windows": (3, 5, 7, 9)}, "3 heads cannot be shared out over 4 windows"),
        ({"num_heads": 5}, "5 heads do not divide 12 channels"),
    ],
)
def test_contradictions_are_named(keywords: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        small(**keywords)
