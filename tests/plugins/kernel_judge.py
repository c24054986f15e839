"""How far a kernel's result may be from exact attention, by type, and how far it is.

A form is a pair of types: FP32, FP16 and BF16 in and out alike, INT8 in with INT8 or FP16 out.
Each judgement asserts, and gives a ratio to report: FP32's error to its tolerance, a half type's to
the error of torch's own attention in that type (2 is allowed), INT8's to what rounding allows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from edgeattn.spec import AttentionSpec
from tests import framework_attention, oracle
from tests.cases import Case
from tests.int8_oracle import QuantizedCase, quantized_case, real_tensors
from tests.plugins.kernel_device import DTYPES, Device
from tests.tolerances import TOLERANCES, assert_close, assert_close_in_half, error_ratio_in_half


class Form(NamedTuple):
    """Types of `qkv` and of the output."""

    in_type: str
    out_type: str

    def __str__(self) -> str:
        return self.in_type if self.in_type == self.out_type else f"{self.in_type}_{self.out_type}"


FORMS = {
    str(form): form
    for form in (
        Form("float32", "float32"),
        Form("float16", "float16"),
        Form("bfloat16", "bfloat16"),
        Form("int8", "int8"),
        Form("int8", "float16"),
    )
}


def judge(device: Device, case: Case, form: Form, seed: int = 0) -> float:
    """Run a case in every variant and compare each with exact attention.

    Args:
        device: What runs the kernels.
        case: What to compute.
        form: In which types.
        seed: Of the emulator's thread order.

    Returns:
        The form's ratio, the largest of the variants.
    """
    size = (case.batch, case.height, case.width)
    spec = (
        replace(case.spec, qkv_quant_scale=1.0, out_quant_scale=1.0)
        if "int8" in form
        else case.spec
    )
    device.library.check(spec, *form)
    variants = device.library.variants(spec, *form, size)
    assert variants, "no variant serves the case"
    assert len(set(variants)) == len(variants)
    assert min(variants) >= 1
    if form.in_type == "int8":
        return _judge_int8(device, case, form, variants, seed)
    tensors = rounded_tensors(case, form.in_type)
    exact = exact_attention(case.spec, **{n: t.astype(np.float64) for n, t in tensors.items()})
    framework = np.empty(0)
    if form.in_type != "float32":
        framework = half_attention(case.spec, tensors)
    ratios = []
    for variant in variants:
        out = device.run(case.spec, tensors, form.out_type, variant, seed).astype(np.float64)
        assert np.isfinite(out).all(), f"variant {variant} left {np.isnan(out).sum()} NaN"
        if form.in_type == "float32":
            order = max(1.0, case.magnitude)  # the tolerance is for outputs of order 1
            assert_close(out / order, exact / order, "attention", "float32")
            ratios.append(_largest(out - exact) / order / TOLERANCES["attention", "float32"].atol)
        else:
            assert_close_in_half(out, exact, framework, form.in_type)
            ratios.append(error_ratio_in_half(out, exact, framework, form.in_type))
    return max(ratios)


def exact_attention(spec: AttentionSpec, **tensors: np.ndarray) -> np.ndarray:
    """Evaluate the operator in float64: the oracle's keys, torch's arithmetic, for speed."""
    values = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    return framework_attention.attention(spec, **values).numpy()


def half_attention(spec: AttentionSpec, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Give what torch computes in the half type of `qkv`, in float64."""
    dtype = getattr(torch, tensors["qkv"].dtype.name)
    values = {name: torch.from_numpy(tensor.astype(np.float32)) for name, tensor in tensors.items()}
    values["qkv"] = values["qkv"].to(dtype)
    return framework_attention.attention(spec, **values).double().numpy()


def rounded_tensors(case: Case, in_type: str) -> dict[str, np.ndarray]:
    """Draw inputs that `in_type` holds exactly, so that only computing with them errs."""
    dtype = DTYPES[in_type]
    tensors = {name: t.astype(dtype) for name, t in case.tensors("float32").items()}
    return {name: t if name == "qkv" else t.astype(np.float32) for name, t in tensors.items()}


# --- INT8 -----------------------------------------------------------------------------------------


def _judge_int8(device: Device, case: Case, form: Form, variants: list[int], seed: int) -> float:
    quantized = quantized_case(case, attend=exact_attention)
    spec = quantized.spec
    if form.out_type != "int8":
        spec = replace(spec, out_quant_scale=0.0)
    ratios = []
    for variant in variants:
        out = device.run(spec, quantized.tensors, form.out_type, variant, seed)
        if form.out_type == "int8":
            ratios.append(int8_ratio(out, quantized))
        else:
            ratios.append(float16_ratio(out, quantized))
        assert ratios[-1] <= 1, f"variant {variant}: {ratios[-1]:.3g} of what rounding allows"
    return max(ratios)


def int8_ratio(out: np.ndarray, quantized: QuantizedCase) -> float:
    """Compare an INT8 output with the exact one, bit for bit up to the final rounding.

    An output is right if the exact value rounds to it. Where it does not, the exact value must lie
    within `weight_error` of the boundary, and the output be the neighbouring step.

    Returns:
        The largest distance beyond a boundary, in units of what is allowed there.
    """
    steps = np.clip(quantized.steps, -128, 127)
    wrong = np.abs(out - np.rint(steps)) > 1
    assert not wrong.any(), f"{wrong.sum()} outputs are more than one step off"
    beyond = np.maximum(np.abs(out - steps) - 0.5, 0)
    allowed = weight_error(quantized) / quantized.spec.out_quant_scale
    return _largest(beyond / allowed)


def float16_ratio(out: np.ndarray, quantized: QuantizedCase) -> float:
    """Compare an FP16 output of INT8 inputs with the exact one.

    Returns:
        The largest error in units of what is allowed there: that of the weights and half a step
        of FP16.
    """
    out = out.astype(np.float64)
    assert np.isfinite(out).all(), f"{np.isnan(out).sum()} outputs are NaN"
    step = np.maximum(np.abs(quantized.exact) * 2.0**-11, 2.0**-25)
    return _largest((out - quantized.exact) / (weight_error(quantized) + step))


def weight_error(quantized: QuantizedCase) -> np.ndarray:
    """Bound what the arithmetic of the INT8 kernels may add to the exact output.

    A weight `e = exp(logit - largest logit of the row)` is computed in FP32, with a relative error
    of `eps` that comes from the logit, and rounded to FP16 before it meets the values: by `2^-11`
    of itself, or by `2^-25` where it is below FP16's normal numbers. Products are exact: INT8 by
    INT8 and INT8 by FP16 both fit FP32. The sum that divides is at least 1, as the largest weight
    is. If it is one of rounded weights, an error of a weight counts by the distance of its value
    from the output `o`; if it is in FP32, by the value itself. With `p = e / Σ e`, both
    `Σ p |v - o|` and `Σ p |v|` are at most `rms = sqrt(Σ p v²)`, so

        |error| <= (2^-11 + 2 eps) · rms + 2 K · 2^-25 · max|v|.

    `eps = 2^-20 (1 + L) + K · 2^-24`: about ten roundings on the way to a logit of magnitude `L`
    and through `exp2`, and the sum of K terms.

    Returns:
        `[B, H, W, C]`, in the units of the output.
    """
    spec = quantized.spec
    real = real_tensors(spec, quantized.tensors)
    _, height, width, _ = real["qkv"].shape
    keys = max(
        (group.window_size[0] or height) * (group.window_size[1] or width)
        for group in spec.head_groups
    )
    eps = 2.0**-20 * (1 + _largest_logit(spec, real)) + keys * 2.0**-24
    largest_value = _largest(oracle.unpack(spec, real["qkv"])[2])
    if "pad_kv" in real:
        largest_value = max(largest_value, _largest(real["pad_kv"].reshape(2, -1)[1]))
    weights = (2.0**-11 + 2 * eps) * quantized.value_rms
    return weights + 2 * keys * 2.0**-25 * largest_value


def _largest_logit(spec: AttentionSpec, real: dict[str, np.ndarray]) -> float:
    """Bound the terms of a logit."""
    if spec.qk_mode == "cosine":
        largest = _largest(real["logit_scale"])
    else:
        query, key, _ = oracle.unpack(spec, real["qkv"])
        norms = [float(np.linalg.norm(x, axis=-1).max(initial=0.0)) for x in (query, key)]
        if "pad_kv" in real:
            pads = real["pad_kv"].reshape(2, spec.qkv_heads, spec.head_dim)[0]
            norms[1] = max(norms[1], float(np.linalg.norm(pads, axis=-1).max()))
        largest = norms[0] * norms[1] * spec.effective_softmax_scale
    if "bias_table" in real:
        largest += _largest(real["bias_table"])
    return largest if np.isinf(spec.mask_value) else largest - spec.mask_value


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0.0))
