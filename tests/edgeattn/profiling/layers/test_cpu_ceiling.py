"""The measured ceiling: plausible figures, and layers beneath it."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn.artifacts import Manifest
from edgeattn.engine.cpu import CpuEngine
from edgeattn.profiling.layers.cpu import profile_cpu_layers
from edgeattn.profiling.layers.cpu_ceiling import cpu_ceiling
from edgeattn.profiling.layers.roofline import Ceiling
from tests.graphs import from_text


@pytest.fixture(scope="module")
def ceiling() -> Ceiling:
    return cpu_ceiling(1)


def test_its_figures_are_those_of_a_processor(ceiling):
    assert ceiling.gb_s is not None
    assert 0.5 < ceiling.gb_s < 5000
    assert set(ceiling.gflop_s) == {"float32", "int8"}
    assert all(1 < rate < 100_000 for rate in ceiling.gflop_s.values())
    assert "1 thread:" in ceiling.device
    assert "64 KiB to 64 MiB" in ceiling.device


def test_layers_lie_beneath_it(ceiling):
    text = "g (float[512,512] x) => (float[512,512] y) { a = MatMul (x, x) y = Tanh (a) }"
    data = from_text(text).SerializeToString()
    x = {"x": np.zeros((512, 512), np.float32)}
    with CpuEngine(data, Manifest("engine", target="cpu"), threads=1) as engine:
        for _ in range(5):  # other programs may slow down the one or the other
            product, tanh = profile_cpu_layers(engine, x, iterations=10, ceiling=ceiling).rows
            assert (product.bound, tanh.bound) == ("compute", "memory")
            shares = (product.ceiling_share, tanh.ceiling_share)
            if 0.2 < shares[0] < 1.2 and 0 < shares[1] < 1.2:
                break
            ceiling = cpu_ceiling.__wrapped__(1)
    assert 0.2 < shares[0] < 1.2, shares
    assert 0 < shares[1] < 1.2, shares
