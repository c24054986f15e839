"""The judge itself: right results pass, results that are slightly wrong do not."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeattn.plugin.kernels import aligned_empty
from edgeattn.spec import AttentionSpec, HeadGroup
from tests import oracle
from tests.cases import NAMED_CASES, Case
from tests.int8_oracle import QuantizedCase, quantized_case, real_tensors, to_steps
from tests.plugins.kernel_device import DTYPES, Device
from tests.plugins.kernel_judge import (
    FORMS,
    exact_attention,
    float16_ratio,
    int8_ratio,
    judge,
    weight_error,
)

CASE = NAMED_CASES["cosine_padded"]
ONE_WINDOW = Case(AttentionSpec(8, 1, (HeadGroup(1, (4, 4)),)), 4, 4)


@pytest.fixture(scope="module")
def quantized() -> QuantizedCase:
    return quantized_case(CASE)


@pytest.mark.parametrize("name", ["eight_groups_of_all_modes", "cosine_padded", "packed_by_head"])
def test_the_fast_reference_equals_the_oracle(name: str) -> None:
    quick, slow = (
        quantized_case(NAMED_CASES[name], attend=attend)
        for attend in (exact_attention, oracle.attention)
    )
    np.testing.assert_allclose(quick.exact, slow.exact, atol=1e-12)
    np.testing.assert_allclose(quick.value_rms, slow.value_rms, atol=1e-12)


# --- INT8 -----------------------------------------------------------------------------------------


def test_a_mean_is_at_most_the_root_of_the_mean_square(quantized: QuantizedCase) -> None:
    assert (np.abs(quantized.exact) <= quantized.value_rms + 1e-12).all()
    assert (quantized.value_rms > 0).all()


def test_the_bound_is_a_small_part_of_a_step(quantized: QuantizedCase) -> None:
    assert (weight_error(quantized) < 0.1 * quantized.spec.out_quant_scale).all()


def test_exact_results_rounded_once_are_right(quantized: QuantizedCase) -> None:
    assert int8_ratio(to_steps(quantized.exact, quantized.spec.out_quant_scale), quantized) == 0
    assert float16_ratio(quantized.exact.astype(np.float16), quantized) <= 1


def test_weights_rounded_to_half_precision_are_right_and_to_bfloat16_are_not() -> None:
    quantized = quantized_case(ONE_WINDOW)
    spec, real = quantized.spec, real_tensors(quantized.spec, quantized.tensors)
    query, key, value = (t[0].reshape(16, 8) for t in oracle.unpack(spec, real["qkv"]))
    logits = query @ key.T * spec.effective_softmax_scale
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    for dtype, is_right in (("float16", True), ("bfloat16", False)):
        rounded = weights.astype(DTYPES[dtype]).astype(np.float64)
        result = (rounded @ value / weights.sum(axis=1, keepdims=True)).reshape(1, 4, 4, 8)
        error = np.abs(result - quantized.exact) / weight_error(quantized)
        assert (error.max() <= 1) == is_right


def test_one_step_off_away_from_a_boundary_is_wrong(quantized: QuantizedCase) -> None:
    out = to_steps(quantized.exact, quantized.spec.out_quant_scale)
    distance = np.abs(quantized.steps - np.rint(quantized.steps))
    place = np.unravel_index(np.argmin(distance), distance.shape)
    out[place] += -1 if out[place] > 0 else 1
    assert int8_ratio(out, quantized) > 5


def test_one_step_off_next_to_a_boundary_is_right_and_two_are_wrong(
    quantized: QuantizedCase,
) -> None:
    scale = quantized.spec.out_quant_scale
    shift = 0.5 - (quantized.steps - np.floor(quantized.steps)) + 1e-6
    moved = replace(quantized, exact=quantized.exact + shift * scale)  # all just above a boundary
    below = np.clip(np.floor(moved.steps), -128, 126).astype(np.int8)
    assert 0 < int8_ratio(below, moved) < 1e-2
    with pytest.raises(AssertionError, match="more than one step off"):
        int8_ratio(below - 1, moved)


def test_an_error_of_half_a_percent_is_wrong(quantized: QuantizedCase) -> None:
    assert float16_ratio((quantized.exact * 1.005).astype(np.float16), quantized) > 1
    with pytest.raises(AssertionError, match="outputs are NaN"):
        float16_ratio(np.full_like(quantized.exact, np.nan, np.float16), quantized)


# --- devices --------------------------------------------------------------------------------------


class PretendDevice(Device):
    """A device whose kernel is any function of the memories."""

    def __init__(self, kernel: Any) -> None:
        super().__init__(
            SimpleNamespace(check=lambda *_: None, variants=lambda *_: [1])  # type: ignore[arg-type]
        )
        self._kernel = kernel
        self._memories: dict[int, np.ndarray] = {}

    def _launch(self, seed: int, spec: AttentionSpec, **arguments: Any) -> None:
        self._kernel(
            spec, {n: self._memories.get(a, a) for n, a in arguments.items() if n != "shape"}
        )

    def _upload(self, content: np.ndarray) -> np.ndarray:
        memory = aligned_empty(content.shape, content.dtype)
        memory[...] = content
        self._memories[self._address(memory) + 256] = memory
        return memory

    def _address(self, memory: np.ndarray) -> int:
        return memory.ctypes.data

    def _download(self, memory: np.ndarray) -> np.ndarray:
        return memory


def _write(name: str, index: int) -> PretendDevice:
    def kernel(spec: AttentionSpec, arguments: dict[str, Any]) -> None:
        arguments[name][index] ^= 1

    return PretendDevice(kernel)


@pytest.mark.parametrize(
    ("name", "index"), [("qkv", 300), ("qkv", 255), ("out", 255), ("out", -256)]
)
def test_writing_anywhere_but_into_the_output_is_found(name: str, index: int) -> None:
    tensors = ONE_WINDOW.tensors("float32")
    with pytest.raises(AssertionError, match=rf"wrote into or next to \['{name}'\]"):
        _write(name, index).run(ONE_WINDOW.spec, tensors, "float32")


def test_an_output_that_is_not_wholly_written_is_found() -> None:
    with pytest.raises(AssertionError, match="left 127 NaN"):
        judge(_write_most(), ONE_WINDOW, FORMS["float16"])


def _write_most() -> PretendDevice:
    def kernel(spec: AttentionSpec, arguments: dict[str, Any]) -> None:
        arguments["out"][256:258] = 0

    return PretendDevice(kernel)
