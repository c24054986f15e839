"""The plugin's life, from the network to the running engine, and where it may end early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.plugin.kernels import Emulator
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.plugins.kernel_device import DTYPES
from tests.plugins.kernel_judge import FORMS, Form
from tests.plugins.plugin_host import REFUSED, Host, HostCase, Transcript, case_of

SPEC = AttentionSpec(
    32,
    3,
    (HeadGroup(2, 4, 2), HeadGroup(1, (6, 5), (0, 1), 2)),
    has_bias=True,
    pad_mode="bias_kv",
    qk_mode="cosine",
)
PLAIN = AttentionSpec(8, 2, (HeadGroup(2, 4, 2),))
SIZES = [(1, 7, 9), (2, 4, 4), (1, 1, 1), (3, 12, 5)]
# One window over the whole map: the larger it is, the fewer kernels serve it.
WHOLE_MAP = AttentionSpec(64, 2, (HeadGroup(2, 0),))
WHOLE_MAP_SIZES = [(1, 9, 9), (1, 17, 17), (2, 3, 5)]


def spec_for(form: Form, spec: AttentionSpec = SPEC) -> AttentionSpec:
    """Give the spec the scales that a form asks for."""
    return replace(
        spec,
        qkv_quant_scale=0.02 if form.in_type == "int8" else 0.0,
        out_quant_scale=0.03 if form.out_type == "int8" else 0.0,
    )


def tensors_for(
    spec: AttentionSpec, in_type: str, size: tuple[int, int, int] = (1, 8, 8)
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(size)
    tensors = {
        name: rng.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape in spec.input_shapes().items()
    }
    qkv = rng.standard_normal((*size, spec.qkv_channels))
    if in_type == "int8":
        qkv = np.rint(40 * qkv).clip(-128, 127)
    return {"qkv": qkv.astype(DTYPES[in_type]), **tensors}


def live(plugin: Host, folder: Path, case: HostCase, **changes: Any) -> Transcript:
    for name, value in changes.items():
        setattr(case, name, value)
    return plugin.live(case, folder)


def network(spec: AttentionSpec = SPEC, in_type: str = "float16") -> HostCase:
    """Make a case that builds an engine and does not run it."""
    case = case_of(spec, in_type, tensors_for(spec, in_type))
    case.runs = []
    return case


def refusal(told: Transcript) -> tuple[str, str]:
    """Give the step that was refused and the one message about it."""
    assert told.exit_code == REFUSED, told
    (step,), (message,) = told.of("refused"), told.errors
    return step, message


# --- types and formats ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_output_has_the_type_that_belongs_to_the_input(
    form: str, plugin: Host, tmp_path: Path
) -> None:
    in_type, out_type = FORMS[form]
    told = live(plugin, tmp_path, network(spec_for(FORMS[form]), in_type))
    assert told.exit_code == 0, told
    assert told.of("output") == [out_type]
    assert told.of("channels") == ["96"]


def test_every_type_that_the_kernels_take_is_one_combination(
    plugin: Host, emulator: Emulator, tmp_path: Path
) -> None:
    for spec in (PLAIN, replace(PLAIN, head_dim=3), replace(PLAIN, head_dim=136)):
        taken = [form for form in FORMS.values() if takes(emulator, spec, form)]
        told = live(plugin, tmp_path, network(spec, "float32"))
        assert told.of("combinations") == [str(len(taken))], spec


def takes(emulator: Emulator, spec: AttentionSpec, form: Form) -> bool:
    try:
        emulator.check(spec, *form)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_qkv_of_a_type_without_attention_is_refused(
    dtype: str, plugin: Host, tmp_path: Path
) -> None:
    told = live(plugin, tmp_path, network(), qkv=(dtype, SPEC.qkv_channels))
    name = dtype.upper()
    message = f"tensor qkv is {name}; expected FP32, FP16, BF16 or INT8"
    assert refusal(told) == ("types", message)


@pytest.mark.parametrize("name", ["bias_table", "pad_kv", "logit_scale"])
def test_other_inputs_are_fp32_whatever_qkv_is(name: str, plugin: Host, tmp_path: Path) -> None:
    case = network()
    case.inputs = [(n, "float16" if n == name else dtype, a) for n, dtype, a in case.inputs]
    message = f"tensor {name} is FP16; expected FP32"
    assert refusal(live(plugin, tmp_path, case)) == ("types", message)


def test_type_that_the_kernels_refuse_is_refused_in_their_words(
    plugin: Host, emulator: Emulator, tmp_path: Path
) -> None:
    odd = replace(PLAIN, head_dim=3)
    step, message = refusal(live(plugin, tmp_path, network(odd, "float16")))
    assert step == "types"
    with pytest.raises(ValueError, match="head_dim") as refused:
        emulator.check(odd, "float16", "float16")
    assert message == f"tensor qkv is FP16: {refused.value}"


def test_int8_without_its_scale_is_refused(plugin: Host, tmp_path: Path) -> None:
    step, message = refusal(live(plugin, tmp_path, network(PLAIN, "int8")))
    assert step == "types"
    assert message.startswith("tensor qkv is INT8: ")
    assert "qkv_quant_scale" in message


# --- shapes ---------------------------------------------------------------------------------------


def test_qkv_with_other_channels_is_refused(plugin: Host, tmp_path: Path) -> None:
    told = live(plugin, tmp_path, network(), qkv=("float16", 287))
    message = "tensor qkv has the shape [1, 8, 8, 287]; expected [?, ?, ?, 288]"
    assert refusal(told) == ("shapes", message)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("bias_table", (2 * 49 + 98,), "[197]"),
        ("bias_table", (1, 197), "[197]"),
        ("pad_kv", (96,), "[192]"),
        ("logit_scale", (4,), "[3]"),
    ],
)
def test_other_inputs_of_other_sizes_are_refused(
    name: str, shape: tuple[int, ...], expected: str, plugin: Host, tmp_path: Path
) -> None:
    case = network()
    case.inputs = [
        (n, t, np.zeros(shape, np.float32) if n == name else a) for n, t, a in case.inputs
    ]
    message = f"tensor {name} has the shape {list(shape)}; expected {expected}"
    assert refusal(live(plugin, tmp_path, case)) == ("shapes", message)


def test_missing_input_is_refused(plugin: Host, tmp_path: Path) -> None:
    case = network()
    del case.inputs[0]
    message = (
        "the node has 3 inputs; its attributes ask for 4: qkv, bias_table, pad_kv, logit_scale"
    )
    assert refusal(live(plugin, tmp_path, case)) == ("types", message)


def test_input_that_no_attribute_asks_for_is_refused(plugin: Host, tmp_path: Path) -> None:
    case = network(PLAIN)
    case.inputs.append(("bias_table", "float32", np.zeros(98, np.float32)))
    message = "the node has 2 inputs; its attributes ask for 1: qkv"
    assert refusal(live(plugin, tmp_path, case)) == ("types", message)


def test_range_with_a_size_that_no_kernel_serves_is_refused(plugin: Host, tmp_path: Path) -> None:
    causal = HeadGroup(2, (1, 4), mode="neighborhood", causal=True)
    case = network(AttentionSpec(8, 2, (causal,)))
    told = live(plugin, tmp_path, case, size_range=((1, 1, 5), (1, 1, 9), (1, 2, 9)))
    step, message = refusal(told)
    assert step == "configure"
    prefix = "no kernel serves qkv of the shape [1, 2, 9, 48]: "
    assert message.startswith(prefix)
    assert "causal" in message.removeprefix(prefix)


# --- tactics --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_tactics_are_the_variants_for_the_most_common_size(
    form: str, plugin: Host, emulator: Emulator, tmp_path: Path
) -> None:
    spec = spec_for(FORMS[form])
    case = network(spec, FORMS[form].in_type)
    told = live(plugin, tmp_path, case, size_range=((1, 1, 1), (2, 9, 9), (4, 40, 40)))
    variants = emulator.variants(spec, *FORMS[form], (2, 9, 9))
    expected = variants if len(variants) > 1 else []  # nothing to choose from
    assert told.of("tactics") == [" ".join(map(str, expected))]


# --- the engine -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("spec", "sizes"), [(SPEC, SIZES), (WHOLE_MAP, WHOLE_MAP_SIZES)], ids=["windows", "whole_map"]
)
def test_one_engine_serves_every_size_with_every_tactic(
    spec: AttentionSpec,
    sizes: list[tuple[int, int, int]],
    form: str,
    plugin: Host,
    emulator: Emulator,
    tmp_path: Path,
) -> None:
    """Bit for bit what the kernels give when called directly."""
    spec = spec_for(FORMS[form], spec)
    in_type, out_type = FORMS[form]
    side = tensors_for(spec, in_type)
    runs = [tensors_for(spec, in_type, size)["qkv"] for size in sizes]
    case = case_of(spec, in_type, side)
    told = live(plugin, tmp_path, case, runs=runs, all_tactics=True)
    assert told.exit_code == 0, told
    tactics = [int(tactic) for tactic in told.of("tactics")[0].split()]
    assert len(told.of("ran")) == len(runs) * (1 + len(tactics))
    for i, qkv in enumerate(runs):
        variants = emulator.variants(spec, in_type, out_type, qkv.shape[:3])
        for tactic in (0, *tactics):
            path = tmp_path / (f"out{i}.{tactic}" if tactic else f"out{i}")
            # A tactic that does not serve a size leaves the choice to the library.
            variant = tactic if tactic in variants else 0
            expected = emulator.run(spec, {**side, "qkv": qkv}, out_type, variant)
            np.testing.assert_array_equal(
                np.fromfile(path, np.uint8), expected.reshape(-1).view(np.uint8)
            )


def test_whole_map_tells_tactics_apart(emulator: Emulator) -> None:
    """Some of them compute in another order, and do not serve every size.

    Otherwise the test above shows less than it says.
    """
    common, large = WHOLE_MAP_SIZES[:2]
    variants = emulator.variants(WHOLE_MAP, "float16", "float16", common)
    assert set(variants) - set(emulator.variants(WHOLE_MAP, "float16", "float16", large))
    tensors = tensors_for(WHOLE_MAP, "float16", common)
    outputs = {emulator.run(WHOLE_MAP, tensors, variant=v).tobytes() for v in variants}
    assert len(outputs) > 1


def test_engine_holds_the_tactic_and_every_attribute(plugin: Host, tmp_path: Path) -> None:
    case = network(WHOLE_MAP)
    case.all_tactics = True
    told = live(plugin, tmp_path, case)
    tactics = told.of("tactics")[0].split()
    attributes = " ".join(told.of("metadata"))
    assert len(tactics) > 1
    assert told.of("engine") == [
        f"plugin_version=1 tactic={tactic} {attributes}" for tactic in ("0", *tactics)
    ]


def test_empty_batch_runs(plugin: Host, tmp_path: Path) -> None:
    case = case_of(PLAIN, "float16", tensors_for(PLAIN, "float16"))
    runs = [np.zeros((0, 4, 4, PLAIN.qkv_channels), np.float16)]
    told = live(plugin, tmp_path, case, runs=runs, size_range=((0, 4, 4), (1, 4, 4), (1, 4, 4)))
    assert told.exit_code == 0, told
    assert (tmp_path / "out0").read_bytes() == b""


ENGINE_REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "other_version": (
        {"replaced": [("plugin_version", "char", ["2"])]},
        'attribute plugin_version is "2"; this library is "1": '
        "build the engine again, or load the library that built it",
    ),
    # What another version wrote need not make sense: its version is what counts.
    "other_version_with_other_fields": (
        {
            "replaced": [
                ("plugin_version", "char", ["0"]),
                ("tactic", "float32", [1.0]),
                ("head_dim", "int32", [8, 8]),
            ]
        },
        'attribute plugin_version is "0"; this library is "1": '
        "build the engine again, or load the library that built it",
    ),
    "no_version": (
        {"lost": ["plugin_version"]},
        "the engine has no field plugin_version: build it again",
    ),
    "no_tactic": ({"lost": ["tactic"]}, "the engine has no field tactic: build it again"),
    "no_attribute": (
        {"lost": ["qkv_heads"]},
        "attribute qkv_heads is missing; expected one integer",
    ),
    "damaged": (
        {"replaced": [("group_shift", "int32", [0])]},
        "attribute group_shift has 1 entry; expected 4 for 2 head groups",
    ),
}


@pytest.mark.parametrize(("changes", "message"), ENGINE_REFUSALS.values(), ids=ENGINE_REFUSALS)
def test_engine_of_another_make_is_refused(
    changes: dict[str, Any], message: str, plugin: Host, tmp_path: Path
) -> None:
    assert refusal(live(plugin, tmp_path, network(), **changes)) == ("deserialize", message)


def test_failure_of_the_kernels_is_told_in_their_words(plugin: Host, tmp_path: Path) -> None:
    # Nobody calls with a size outside the range; if it happens, it is no crash.
    causal = HeadGroup(2, (1, 4), mode="neighborhood", causal=True)
    spec = AttentionSpec(8, 2, (causal,))
    case = case_of(spec, "float16", tensors_for(spec, "float16", (1, 3, 4)))
    told = live(plugin, tmp_path, case, size_range=((1, 1, 4),) * 3)
    step, message = refusal(told)
    assert step == "enqueue"
    assert "causal" in message
