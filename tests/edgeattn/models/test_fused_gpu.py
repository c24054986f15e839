"""The operator on CUDA tensors: numbers, streams, graphs, gradients."""

from __future__ import annotations

import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from edgeattn.errors import PluginError, SpecError
from edgeattn.models import fused
from edgeattn.models.attention import MultiScaleWindowAttention
from edgeattn.models.fused import UnfusedAttentionWarning, require_fused, why_not_fused
from edgeattn.models.operator import multi_scale_window_attention, reference_attention
from edgeattn.plugin.kernels import KernelLibrary
from edgeattn.spec import AttentionSpec, HeadGroup
from tests.cases import NAMED_CASES, Case
from tests.plugins.kernel_cases import KERNEL_CASES, SLOW_CASES, case_of
from tests.plugins.kernel_judge import exact_attention, half_attention, rounded_tensors
from tests.tolerances import assert_close, assert_close_in_half

pytestmark = pytest.mark.gpu

TYPES = ("float32", "float16", "bfloat16")
SPEC = AttentionSpec(
    32, 4, (HeadGroup(2, 4, 2), HeadGroup(2, 7, 3, 2)), has_bias=True, pad_mode="bias_kv"
)
CASE = Case(SPEC, 23, 18, batch=2)


@pytest.fixture(scope="module", autouse=True)
def _kernels(request: pytest.FixtureRequest) -> None:
    """Skip without the library, but not where a GPU was promised."""
    found = fused.kernel_library()
    if isinstance(found, KernelLibrary):
        return
    if "gpu" in request.config.getoption("--require"):
        pytest.fail(f"{found.message}; {found.hint}")
    pytest.skip(f"{found.message}; {found.hint}")


@pytest.fixture(autouse=True)
def _fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here passes by running the reference."""
    monkeypatch.setattr(fused, "_required", True)
    monkeypatch.setattr(fused, "_told", set())


def _tensors(case: Case, in_type: str = "float32", device: str = "cuda") -> dict[str, torch.Tensor]:
    tensors = rounded_tensors(case, in_type)
    qkv = torch.from_numpy(tensors.pop("qkv").astype(np.float32)).to(getattr(torch, in_type))
    tables = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    return {name: t.to(device) for name, t in {"qkv": qkv, **tables}.items()}


def _attend(spec: AttentionSpec, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return multi_scale_window_attention(spec=spec, **tensors)


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_type", TYPES)
@pytest.mark.parametrize("name", [*NAMED_CASES, *sorted(KERNEL_CASES.keys() - SLOW_CASES)])
def test_the_operator_on_a_gpu_equals_the_oracle(name: str, in_type: str) -> None:
    case = case_of(name, in_type)
    tensors = rounded_tensors(case, in_type)
    exact = exact_attention(case.spec, **{n: t.astype(np.float64) for n, t in tensors.items()})
    out = _attend(case.spec, _tensors(case, in_type))
    assert out.dtype == getattr(torch, in_type)
    computed = out.double().cpu().numpy()
    if in_type == "float32":
        assert_close(computed, exact, "attention", "float32")
    else:
        assert_close_in_half(computed, exact, half_attention(case.spec, tensors), in_type)


def test_strided_and_unaligned_tensors_are_read_as_they_lie() -> None:
    tensors = _tensors(CASE, "float16")
    expected = _attend(SPEC, tensors)
    strided = {name: torch.stack([t, t + 1], dim=-1)[..., 0] for name, t in tensors.items()}
    assert torch.equal(_attend(SPEC, strided), expected)
    memory = torch.zeros(tensors["qkv"].numel() + 1, dtype=torch.float16, device="cuda")
    memory[1:] = tensors["qkv"].flatten()
    unaligned = memory[1:].view(tensors["qkv"].shape)
    assert torch.equal(_attend(SPEC, {**tensors, "qkv": unaligned}), expected)


def test_an_empty_batch_gives_an_empty_output() -> None:
    tensors = _tensors(CASE)
    tensors["qkv"] = tensors["qkv"][:0]
    assert _attend(SPEC, tensors).shape == (0, 23, 18, SPEC.out_channels)


@pytest.mark.parametrize("in_type", TYPES)
def test_a_layer_computes_on_a_gpu_what_it_does_on_the_cpu(in_type: str) -> None:
    torch.manual_seed(0)
    layer = MultiScaleWindowAttention(128, SPEC.head_groups).eval()
    x = torch.randn(2, 23, 18, 128)
    with torch.no_grad():
        expected = layer(x)
        out = layer.to("cuda", getattr(torch, in_type))(x.to("cuda", getattr(torch, in_type)))
    error = (out.float().cpu() - expected).norm() / expected.norm()
    assert float(error) < {"float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}[in_type]


# --- streams, graphs, devices ---------------------------------------------------------------------


def test_the_launch_waits_for_what_its_stream_did_before() -> None:
    tensors = _tensors(CASE, "float16")
    expected = _attend(SPEC, tensors)
    late = {name: torch.zeros_like(t) for name, t in tensors.items()}
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        busy = torch.randn(4096, 4096, device="cuda")
        for _ in range(20):
            busy = busy @ busy / 64
        for name, tensor in late.items():
            tensor.copy_(tensors[name])
        out = _attend(SPEC, late)
    stream.synchronize()
    assert torch.equal(out, expected)


def test_a_captured_call_replays_on_new_values() -> None:
    tensors = _tensors(CASE, "bfloat16")
    _attend(SPEC, tensors)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = _attend(SPEC, tensors)
    for seed in range(3):
        torch.manual_seed(seed)
        tensors["qkv"].copy_(torch.randn_like(tensors["qkv"]))
        out.fill_(torch.nan)
        graph.replay()
        assert torch.equal(out, _attend(SPEC, tensors))


FIRST_CALL_CAPTURED = """
import torch
from edgeattn.models.operator import multi_scale_window_attention
from edgeattn.spec import AttentionSpec, HeadGroup
spec = AttentionSpec(32, 4, (HeadGroup(4, 7),))
qkv = torch.randn(2, 21, 21, spec.qkv_channels, dtype=torch.float16, device="cuda")
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    out = multi_scale_window_attention(qkv, spec)
graph.replay()
assert torch.equal(out, multi_scale_window_attention(qkv, spec))
"""


def test_the_first_call_of_a_process_can_be_captured() -> None:
    subprocess.run([sys.executable, "-c", FIRST_CALL_CAPTURED], check=True)


def test_threads_do_not_take_each_others_shared_memory() -> None:
    # The same kernel with less and with more of it: the limit belongs to the kernel.
    specs = [AttentionSpec(64, 4, (HeadGroup(4, window),), has_bias=True) for window in (14, 16)]
    cases = [Case(spec, 64, 64, batch=2) for spec in specs]

    def attend(case: Case) -> bool:
        tensors = _tensors(case, "float16")
        expected = _attend(case.spec, tensors)
        return all(torch.equal(_attend(case.spec, tensors), expected) for _ in range(300))

    with ThreadPoolExecutor() as pool:
        assert all(pool.map(attend, cases * 2))


def test_a_capture_holds_one_kernel_and_nothing_else() -> None:
    tensors = _tensors(CASE, "float16")
    _attend(SPEC, tensors)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        _attend(SPEC, tensors)
        torch.cuda.synchronize()
    on_device = [
        event.name
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    assert len(on_device) == 1, on_device


def test_the_tensors_device_computes_whatever_the_current_one_is() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    if why_not_fused(SPEC, torch.float16, "cuda:1") is not None:
        pytest.skip("the library does not run on the second GPU")
    expected = _attend(SPEC, _tensors(CASE, "float16"))
    with torch.cuda.device(0):
        out = _attend(SPEC, _tensors(CASE, "float16", "cuda:1"))
    assert out.device.index == 1
    assert torch.equal(out.cpu(), expected.cpu())


def test_a_table_left_on_the_cpu_is_refused() -> None:
    tensors = _tensors(CASE)
    tensors["bias_table"] = tensors["bias_table"].cpu()
    with pytest.raises(SpecError, match="bias_table is on cpu and qkv on cuda:0"):
        _attend(SPEC, tensors)


# --- gradients, compile, autocast -----------------------------------------------------------------


def test_gradients_are_those_of_the_reference() -> None:
    ours = {name: t.requires_grad_() for name, t in _tensors(CASE).items()}
    theirs = {name: t.requires_grad_() for name, t in _tensors(CASE).items()}
    out, expected = _attend(SPEC, ours), reference_attention(SPEC, **theirs)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-5)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for name in ours:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, atol=1e-4, rtol=1e-4)


def test_a_compiled_call_equals_an_eager_one() -> None:
    tensors = _tensors(CASE, "float16")
    torch.compiler.reset()
    compiled = torch.compile(_attend, fullgraph=True)
    assert torch.equal(compiled(SPEC, tensors), _attend(SPEC, tensors))


def test_torch_accepts_the_operators_registration_on_a_gpu() -> None:
    tensors = {name: t.requires_grad_() for name, t in _tensors(CASE).items()}
    arguments = tuple(tensors.get(name) for name in ("qkv", "bias_table", "pad_kv", "logit_scale"))
    operator = torch.ops.edgeattn.multi_scale_window_attention.default
    torch.library.opcheck(operator, arguments, SPEC.to_attributes())


def test_autocast_changes_nothing_inside() -> None:
    tensors = _tensors(CASE)
    expected = _attend(SPEC, tensors)
    with torch.autocast("cuda", dtype=torch.float16):
        out = _attend(SPEC, tensors)
    assert out.dtype == torch.float32
    assert torch.equal(out, expected)


# --- what does not run fused ----------------------------------------------------------------------


def test_float64_runs_unfused_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {name: t.double() for name, t in _tensors(CASE).items()}
    with pytest.raises(PluginError, match="cannot run fused: the kernels compute in float32"):
        _attend(SPEC, tensors)
    require_fused(False)
    with pytest.warns(UnfusedAttentionWarning, match="not in float64"):
        out = _attend(SPEC, tensors)
    exact = exact_attention(SPEC, **{name: t.cpu().numpy() for name, t in tensors.items()})
    assert_close(out.cpu().numpy(), exact, "attention", "float64")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _attend(SPEC, tensors)
