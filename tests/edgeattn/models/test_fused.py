"""When CUDA tensors go to the kernels, what is told if not, and how tensors reach a library."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeattn.errors import PluginError, SpecError
from edgeattn.models import fused
from edgeattn.models.fused import UnfusedAttentionWarning, launch, require_fused, why_not_fused
from edgeattn.models.operator import multi_scale_window_attention, reference_attention
from edgeattn.plugin.kernels import KernelLibrary
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.cases import Case
from tests.plugins.kernel_cases import case_of
from tests.plugins.kernel_judge import exact_attention, half_attention, rounded_tensors
from tests.tolerances import assert_close, assert_close_in_half

SPEC = AttentionSpec(8, 2, (HeadGroup(2, 3, 1),), has_bias=True, pad_mode="bias_kv")
CASES = (
    "odd_map_bias_kv_pad_then_roll",
    "three_scales_split_over_the_heads",
    "eight_groups_of_all_modes",
    "packed_by_head_padded",
    "cosine_padded",
    "causal",
    "many_images",
)


@pytest.fixture(scope="module")
def emulator() -> KernelLibrary:
    from edgeattn.plugin.emulator import build_emulator

    return KernelLibrary(build_emulator())


@pytest.fixture(autouse=True)
def _as_at_the_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what other tests asked for and were told."""
    monkeypatch.setattr(fused, "_required", None)
    monkeypatch.setattr(fused, "_told", set())
    monkeypatch.delenv(fused.REQUIRE_VARIABLE, raising=False)
    find_once = fused.kernel_library
    find_once.cache_clear()
    yield
    find_once.cache_clear()


class AsBuiltForGpus(KernelLibrary):
    """The emulator's checks of attributes under the name of a CUDA library."""

    @property
    def build_info(self) -> dict[str, Any]:
        return {**super().build_info, "kind": "cuda", "architectures": [80, 87]}

    @property
    def is_emulator(self) -> bool:
        return False


Found = KernelLibrary | PluginError
Pretend = Callable[..., None]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, emulator: KernelLibrary) -> Pretend:
    """Let PyTorch see a GPU, and a library be found for it."""

    def pretend(found: Found | None = None, capability: tuple[int, int] = (8, 7)) -> None:
        library = AsBuiltForGpus(emulator.path) if found is None else found
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(fused, "kernel_library", lambda: library)

    return pretend


def _tensors(case: Case, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    name = str(dtype).removeprefix("torch.")
    tensors = rounded_tensors(case, name)
    qkv = torch.from_numpy(tensors.pop("qkv").astype(np.float32)).to(dtype)
    return {"qkv": qkv, **{name: torch.from_numpy(t) for name, t in tensors.items()}}


# --- the decision ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_the_kernels_take_runs_fused(pretend: Pretend, dtype: torch.dtype) -> None:
    pretend()
    assert why_not_fused(SPEC, dtype, "cuda") is None


def test_float32_runs_fused_with_any_head_dimension(pretend: Pretend) -> None:
    pretend()
    assert why_not_fused(AttentionSpec(5, 1, (HeadGroup(1, 3),)), torch.float32, "cuda") is None


def test_half_precision_needs_a_head_dimension_of_eights(pretend: Pretend) -> None:
    pretend()
    spec = AttentionSpec(5, 1, (HeadGroup(1, 3),))
    reason = why_not_fused(spec, torch.float16, "cuda")
    assert reason is not None
    assert "head_dim" in reason
    assert "5" in reason


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_other_types_are_named(pretend: Pretend, dtype: torch.dtype) -> None:
    pretend()
    name = str(dtype).removeprefix("torch.")
    expected = f"the kernels compute in float32, float16, bfloat16, not in {name}"
    assert why_not_fused(SPEC, dtype, "cuda") == expected


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_other_devices_are_named(device: str) -> None:
    expected = f"the kernels run on CUDA devices, and the tensors are on {device}"
    assert why_not_fused(SPEC, torch.float32, device) == expected


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert why_not_fused(SPEC, torch.float32, "cuda") == "PyTorch sees no CUDA device"


@pytest.mark.parametrize("capability", [(7, 5), (6, 1)])
def test_a_gpu_older_than_the_library_is_named(
    pretend: Pretend, capability: tuple[int, int]
) -> None:
    pretend(capability=capability)
    reason = why_not_fused(SPEC, torch.float32, "cuda")
    assert reason is not None
    assert reason.endswith("was built for sm_80, sm_87; the GPU is sm_{}{}".format(*capability))


def test_the_emulator_is_no_library_for_a_gpu(pretend: Pretend, emulator: KernelLibrary) -> None:
    pretend(emulator)
    reason = why_not_fused(SPEC, torch.float32, "cuda")
    assert reason == f"{emulator.path} is the emulator, which computes on the CPU"


def test_why_no_library_was_loaded_is_told_with_what_to_do(pretend: Pretend) -> None:
    pretend(PluginError("no kernel library was found", "build one"))
    assert why_not_fused(SPEC, torch.float32, "cuda") == "no kernel library was found (build one)"


# --- finding the library --------------------------------------------------------------------------


def _let_find(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Path | None]) -> None:
    monkeypatch.setattr("edgeattn.plugin.build.find_kernel_library", answer)


def test_the_library_is_looked_for_once(
    monkeypatch: pytest.MonkeyPatch, emulator: KernelLibrary
) -> None:
    asked = []

    def find() -> Path:
        asked.append(True)
        return emulator.path

    _let_find(monkeypatch, find)
    first = fused.kernel_library()
    assert isinstance(first, KernelLibrary)
    assert first.path == emulator.path
    assert fused.kernel_library() is first
    assert len(asked) == 1


def test_no_library_is_a_reason_that_says_how_to_build_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _let_find(monkeypatch, lambda: None)
    found = fused.kernel_library()
    assert isinstance(found, PluginError)
    assert found.message == "no kernel library was found"
    assert "edgeattn plugin build" in found.hint


def test_a_file_that_is_no_library_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "libedgeattn_kernels.so"
    path.write_bytes(b"nothing")
    _let_find(monkeypatch, lambda: path)
    found = fused.kernel_library()
    assert isinstance(found, PluginError)
    assert str(path) in found.message


def test_the_environment_names_the_library(
    monkeypatch: pytest.MonkeyPatch, emulator: KernelLibrary
) -> None:
    monkeypatch.setenv("EDGEATTN_KERNEL_LIBRARY", str(emulator.path))
    found = fused.kernel_library()
    assert isinstance(found, KernelLibrary)
    assert found.path == emulator.path


def test_tensors_on_the_cpu_look_for_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> Path:
        raise AssertionError("looked for a library")

    _let_find(monkeypatch, find)
    require_fused()
    tensors = _tensors(Case(SPEC, 5, 6), torch.float32)
    assert fused.fused_attention(SPEC, **tensors) is None
    out = multi_scale_window_attention(spec=SPEC, **tensors)
    assert torch.equal(out, reference_attention(SPEC, **tensors))


# --- what is told ---------------------------------------------------------------------------------

GPU = torch.device("cuda", 1)


def test_a_reason_is_told_once() -> None:
    with pytest.warns(UnfusedAttentionWarning) as caught:
        fused._tell_unfused("no library", GPU)
    told = "attention on cuda:1 runs unfused, as PyTorch's operators: no library"
    assert [str(warning.message) for warning in caught] == [told]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused._tell_unfused("no library", GPU)
    with pytest.warns(UnfusedAttentionWarning, match="another"):
        fused._tell_unfused("another reason", GPU)


@pytest.mark.parametrize("by", ["function", "environment"])
def test_who_requires_fusion_gets_an_error_every_time(
    monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    if by == "function":
        require_fused()
    else:
        monkeypatch.setenv("EDGEATTN_REQUIRE_FUSED", "1")
    for _ in range(2):
        with pytest.raises(PluginError, match="cuda:1 cannot run fused: no library") as caught:
            fused._tell_unfused("no library", GPU)
        assert "require_fused(False)" in caught.value.hint


@pytest.mark.parametrize("value", ["", "0"])
def test_an_environment_that_says_no_requires_nothing(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("EDGEATTN_REQUIRE_FUSED", value)
    with pytest.warns(UnfusedAttentionWarning):
        fused._tell_unfused("no library", GPU)


def test_the_function_overrules_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEATTN_REQUIRE_FUSED", "1")
    require_fused(False)
    with pytest.warns(UnfusedAttentionWarning):
        fused._tell_unfused("no library", GPU)


# --- from tensors to the library ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_tensors_reach_the_kernels_and_come_back(
    emulator: KernelLibrary, name: str, dtype: torch.dtype
) -> None:
    type_name = str(dtype).removeprefix("torch.")
    case = case_of(name, type_name)
    tensors = _tensors(case, dtype)
    out = launch(emulator, case.spec, **tensors)
    assert out.dtype == dtype
    assert out.is_contiguous()
    exact = exact_attention(case.spec, **{n: t.double().numpy() for n, t in tensors.items()})
    if dtype == torch.float32:
        assert_close(out.numpy(), exact, "attention", "float32")
    else:
        rounded = rounded_tensors(case, type_name)
        framework = half_attention(case.spec, rounded)
        assert_close_in_half(out.double().numpy(), exact, framework, type_name)


@pytest.mark.parametrize("name", CASES)
def test_strided_and_unaligned_tensors_are_copied_first(emulator: KernelLibrary, name: str) -> None:
    case = case_of(name, "float16")
    tensors = _tensors(case, torch.float16)
    expected = launch(emulator, case.spec, **tensors)

    strided = {name: torch.stack([t, t + 1], dim=-1)[..., 0] for name, t in tensors.items()}
    assert not any(t.is_contiguous() for t in strided.values() if t.numel() > 1)
    assert torch.equal(launch(emulator, case.spec, **strided), expected)

    qkv = tensors["qkv"]
    memory = torch.zeros(qkv.numel() + 1, dtype=qkv.dtype)
    memory[1:] = qkv.flatten()
    unaligned = memory[1:].view(qkv.shape)
    assert unaligned.is_contiguous()
    assert unaligned.data_ptr() % 16
    assert torch.equal(launch(emulator, case.spec, **{**tensors, "qkv": unaligned}), expected)


def test_tables_of_other_types_are_read_as_float32(emulator: KernelLibrary) -> None:
    tensors = _tensors(Case(SPEC, 5, 6), torch.float32)
    half = {n: t.half() if n != "qkv" else t for n, t in tensors.items()}
    rounded = {n: t.float() for n, t in half.items()}
    double = {n: t.double() if n != "qkv" else t for n, t in rounded.items()}
    expected = launch(emulator, SPEC, **rounded)
    assert torch.equal(launch(emulator, SPEC, **half), expected)
    assert torch.equal(launch(emulator, SPEC, **double), expected)


def test_a_variant_reaches_the_library(emulator: KernelLibrary) -> None:
    case = Case(SPEC, 5, 6)
    tensors = _tensors(case, torch.float16)
    variants = emulator.variants(SPEC, "float16", "float16", (1, 5, 6))
    outputs = [launch(emulator, SPEC, **tensors, variant=variant) for variant in variants]
    for out in outputs:
        torch.testing.assert_close(out, outputs[0], atol=4e-3, rtol=0)
    with pytest.raises(PluginError, match="variant"):
        launch(emulator, SPEC, **tensors, variant=max(variants) + 1000)


def test_an_empty_batch_gives_an_empty_output(emulator: KernelLibrary) -> None:
    tensors = _tensors(Case(SPEC, 5, 6), torch.float32)
    tensors["qkv"] = tensors["qkv"][:0]
    assert launch(emulator, SPEC, **tensors).shape == (0, 5, 6, SPEC.out_channels)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("bias_table", None, "bias_table is missing; expected the shape [50]"),
        ("pad_kv", None, "pad_kv is missing; expected the shape [32]"),
        ("bias_table", torch.zeros(49), "bias_table is of shape [49]; expected the shape [50]"),
        ("pad_kv", torch.zeros(2, 16), "pad_kv is of shape [2, 16]; expected the shape [32]"),
        (
            "pad_kv",
            torch.zeros(32, device="meta"),
            "pad_kv is on meta and qkv on cpu; expected one device",
        ),
        ("qkv", torch.zeros(1, 5, 6, 40), "qkv has 40 channels; expected 48"),
    ],
)
def test_a_tensor_that_would_be_read_past_its_end_is_refused(
    emulator: KernelLibrary, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    tensors: dict[str, Any] = {**_tensors(Case(SPEC, 5, 6), torch.float32), name: tensor}
    with pytest.raises(SpecError) as caught:
        launch(emulator, SPEC, **tensors)
    assert caught.value.message == message
