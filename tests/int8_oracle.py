"""The judge of the attention's INT8 form: exact attention on real values, then one rounding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edgeattn.spec import AttentionSpec
from tests import oracle
from tests.cases import Case

Attend = Callable[..., np.ndarray]  # the oracle, or what has its signature and is faster


def to_steps(real: np.ndarray, quant_scale: float) -> np.ndarray:
    """Round to INT8 steps: halves to even, clamped to [-128, 127]."""
    return np.clip(np.rint(real / quant_scale), -128, 127).astype(np.int8)


@dataclass(frozen=True)
class QuantizedCase:
    """A case in the INT8 form, with its exact result.

    Attributes:
        spec: Both scales set.
        tensors: `qkv` int8; the others float32, `pad_kv` not on the steps of `qkv`.
        exact: `[B, H, W, C]` float64: the real output before it is rounded.
        value_rms: `[B, H, W, C]` float64: root of the mean square of the values, under the same
            weights: what errors of the weights are relative to.
    """

    spec: AttentionSpec
    tensors: dict[str, np.ndarray]
    exact: np.ndarray
    value_rms: np.ndarray

    @property
    def steps(self) -> np.ndarray:
        """The exact output in steps of `out_quant_scale`, not rounded."""
        return self.exact / self.spec.out_quant_scale


def real_tensors(spec: AttentionSpec, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give the float64 tensors that an INT8 node computes with; padded tokens are steps too."""
    real = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    real["qkv"] = real["qkv"] * spec.qkv_quant_scale
    if "pad_kv" in real:
        steps = to_steps(tensors["pad_kv"], np.float32(spec.qkv_quant_scale))
        real["pad_kv"] = steps * spec.qkv_quant_scale
    return real


def quantized_case(case: Case, seed: int = 0, attend: Attend = oracle.attention) -> QuantizedCase:
    """Quantize a case: scales from the largest magnitudes of input and output.

    Args:
        case: Its tensors are drawn as for the floating point form.
        seed: Of the draw.
        attend: What evaluates the operator in float64.
    """
    drawn = case.tensors("float32", seed)
    scale = _scale(drawn["qkv"])
    spec = replace(case.spec, qkv_quant_scale=scale)
    tensors = {**drawn, "qkv": to_steps(drawn["qkv"], scale)}
    if "pad_kv" in tensors:
        tensors["pad_kv"] = _clear_of_ties(tensors["pad_kv"], scale)
    exact, value_rms = exact_attention(spec, tensors, attend)
    return QuantizedCase(replace(spec, out_quant_scale=_scale(exact)), tensors, exact, value_rms)


def exact_attention(
    spec: AttentionSpec, tensors: dict[str, np.ndarray], attend: Attend = oracle.attention
) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate an INT8 node in float64: its output before rounding, and the values' RMS."""
    plain = replace(spec, qkv_quant_scale=0.0, out_quant_scale=0.0)
    real = real_tensors(spec, tensors)
    exact = attend(plain, **real)
    real["qkv"] = real["qkv"].copy()
    values = oracle.unpack(spec, real["qkv"])[2]  # a view
    np.square(values, out=values)
    if "pad_kv" in real:
        pad_values = real["pad_kv"].reshape(2, -1)[1]
        np.square(pad_values, out=pad_values)
    return exact, np.sqrt(attend(plain, **real))


def _scale(tensor: np.ndarray) -> float:
    """Choose the step that takes the largest magnitude to 127; a float32 as the kernels have it."""
    return float(np.float32(np.abs(tensor).max(initial=0.0) / 127 or 1.0))


def _clear_of_ties(real: np.ndarray, scale: float) -> np.ndarray:
    """Move numbers away from half steps, where a float32 quotient and a product may disagree."""
    steps = real / np.float32(scale)
    is_near = np.abs(np.abs(steps - np.floor(steps)) - 0.5) < 1e-3
    return np.where(is_near, real + np.float32(0.01 * scale), real)
