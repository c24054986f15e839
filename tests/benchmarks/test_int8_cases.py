"""The graphs and samples that quantizers are compared on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.int8_cases import (
    HF_SWIN,
    _calibration,
    _enlarged,
    _held_out,
    _stretched,
    case_names,
    make_case,
    spread,
)
from edgeattn.graph.files import load_graph
from edgeattn.graph.op import attention_nodes
from edgeattn.inputs import ImagePreprocess, InputSpec
from edgeattn.models.registry import model_names
from tests.quantization import floats


def test_every_model_of_the_registry_is_a_case() -> None:
    assert case_names() == [*model_names(), HF_SWIN]


@pytest.mark.parametrize("name", ["mswin_nano", "msseq_nano"])
def test_no_held_out_sample_is_calibrated_with(name: str) -> None:
    calibration = {sample.tobytes() for sample in _calibration(name)}
    held_out, labels = _held_out(name)
    assert len(held_out) == len(labels) > len(calibration) // 2
    assert not calibration & {sample.tobytes() for sample in held_out}


def test_rows_are_spread_over_all_classes() -> None:
    assert spread(np.arange(10), 4).tolist() == [0, 2, 5, 7]
    assert spread(np.arange(3), 4).tolist() == [0, 1, 2]


def test_pixels_are_repeated_and_normalised_anew() -> None:
    pixels = np.array([[[[0.0, 1.0], [0.25, 0.5]]]], np.float32)
    before = ImagePreprocess((0.5,), (0.25,))
    spec = InputSpec((1, 3, 5, 4), preprocess=ImagePreprocess((0.1, 0.2, 0.3), (0.5, 1.0, 2.0)))
    found = _enlarged((pixels - 0.5) / 0.25, spec, before)
    assert found.shape == (1, 3, 5, 4)
    assert found.dtype == np.float32
    # Three rows of each: the fifth is the last that fits.
    expected = pixels.repeat(3, axis=2).repeat(2, axis=3)[:, :, :5]
    for channel, (mean, std) in enumerate(((0.1, 0.5), (0.2, 1.0), (0.3, 2.0))):
        np.testing.assert_allclose(found[:, [channel]], (expected - mean) / std, rtol=1e-6)


def test_signals_keep_their_ends_and_become_longer() -> None:
    signals = floats(2, 3, 5)
    found = _stretched(signals, InputSpec((1, 3, 9)), None)
    assert found.shape == (2, 3, 9)
    np.testing.assert_allclose(found[:, :, ::2], signals, rtol=1e-6)
    np.testing.assert_allclose(found[:, :, 1], (signals[:, :, 0] + signals[:, :, 1]) / 2, rtol=1e-5)


def test_other_tools_get_a_graph_without_attention_nodes(tmp_path: Path) -> None:
    case = make_case("msseq_nano", tmp_path, calibration=3, held_out=4)
    assert case.labels is not None
    assert (len(case.calibration), len(case.held_out), len(case.labels)) == (3, 4, 4)
    assert not case.has_fixed_batch
    assert attention_nodes(load_graph(case.graph))
    assert not attention_nodes(load_graph(case.plain))
