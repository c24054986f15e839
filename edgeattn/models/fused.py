"""Attention on CUDA tensors in the project's own kernels: one launch for all heads and windows.

The operator asks here first. Where the kernels cannot run, the reference of `operator.py` does,
which moves many times the bytes: that is told once as a warning, or refused with `require_fused`.

The kernels come as a shared library with a C interface (`edgeattn plugin build` makes it). Its
launch neither allocates nor synchronises, so that a CUDA graph can capture it.

References:
    plugins/include/edgeattn/edgeattn.h, the C interface.
"""

from __future__ import annotations

import functools
import os
import warnings

import torch
from torch import Tensor

from edgeattn.errors import EdgeAttnError, PluginError, SpecError
from edgeattn.plugin.kernels import ALIGNMENT_BYTES, KernelLibrary
from edgeattn.spec import AttentionSpec
from edgeattn.targets import runs_on

REQUIRE_VARIABLE = "EDGEATTN_REQUIRE_FUSED"

_TYPE_NAMES = {
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
_required: bool | None = None  # what require_fused said; else the environment decides
_told: set[str] = set()


class UnfusedAttentionWarning(UserWarning):
    """Attention on a GPU runs as a row of PyTorch's operators, not in the fused kernel."""


def require_fused(required: bool = True) -> None:
    """Refuse to run attention on CUDA tensors unfused, in place of a warning.

    The environment variable `EDGEATTN_REQUIRE_FUSED=1` asks for the same. Tensors on the CPU have
    the reference alone and are never refused.

    Args:
        required: Whether an unfused attention on a GPU is an error from now on.
    """
    global _required
    _required = required


def why_not_fused(
    spec: AttentionSpec, dtype: torch.dtype, device: torch.device | str
) -> str | None:
    """Tell what keeps an attention out of the kernels.

    Args:
        spec: What to compute.
        dtype: Type of the packed projection.
        device: Where it lies.

    Returns:
        One sentence, or `None` if the attention runs fused.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return f"the kernels run on CUDA devices, and the tensors are on {device}"
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    return _why_not_fused_on_gpu(spec, dtype, device)


def _why_not_fused_on_gpu(
    spec: AttentionSpec, dtype: torch.dtype, device: torch.device
) -> str | None:
    library = kernel_library()
    if isinstance(library, PluginError):
        return _sentence(library)
    major, minor = torch.cuda.get_device_capability(device)
    return _refusal(library, spec, dtype, 10 * major + minor)


@functools.cache
def kernel_library() -> KernelLibrary | PluginError:
    """Find and load the kernel library, once: it, or the reason why there is none."""
    from edgeattn.plugin.build import find_kernel_library

    try:
        path = find_kernel_library()
        if path is None:
            return PluginError(
                "no kernel library was found",
                "build one with `edgeattn plugin build`, or name its file in "
                "EDGEATTN_KERNEL_LIBRARY",
            )
        return KernelLibrary(path)
    except EdgeAttnError as err:
        return PluginError(err.message, err.hint)


@functools.lru_cache(maxsize=256)
def _refusal(
    library: KernelLibrary, spec: AttentionSpec, dtype: torch.dtype, architecture: int
) -> str | None:
    """Ask a library whether it serves a spec, a type and a GPU, such as 87 for sm_87."""
    if dtype not in _TYPE_NAMES:
        known = ", ".join(_TYPE_NAMES.values())
        return f"the kernels compute in {known}, not in {str(dtype).removeprefix('torch.')}"
    if library.is_emulator:
        return f"{library.path} is the emulator, which computes on the CPU"
    built = library.build_info["architectures"]
    if not runs_on(built, architecture):
        names = ", ".join(f"sm_{sm}" for sm in built) or "no architecture"
        return f"{library.path} was built for {names}; the GPU is sm_{architecture}"
    try:
        library.check(spec, _TYPE_NAMES[dtype], _TYPE_NAMES[dtype])
    except SpecError as err:
        return _sentence(err)
    return None


def fused_attention(
    spec: AttentionSpec,
    qkv: Tensor,
    bias_table: Tensor | None = None,
    pad_kv: Tensor | None = None,
    logit_scale: Tensor | None = None,
) -> Tensor | None:
    """Enqueue the attention on the current stream of the tensors' device.

    Args:
        spec: What to compute.
        qkv: `[B, H, W, spec.qkv_channels]`; copied first if not contiguous.
        bias_table: `[spec.bias_entries]`, if the spec has a bias.
        pad_kv: `[2 * qkv_heads * head_dim]`, if padded tokens attend.
        logit_scale: `[qkv_heads]`, if the attention is by cosine.

    Returns:
        `[B, H, W, spec.out_channels]` of the type of `qkv`; `None` if the kernels do not serve
        it, which was then told.

    Raises:
        SpecError: If a tensor is missing, of another size, or on another device than `qkv`.
        PluginError: If the launch fails, or the attention cannot run fused although it must.
    """
    if qkv.device.type != "cuda":
        return None
    reason = _why_not_fused_on_gpu(spec, qkv.dtype, qkv.device)
    if reason is not None:
        _tell_unfused(reason, qkv.device)
        return None
    library = kernel_library()
    assert isinstance(library, KernelLibrary)
    with torch.cuda.device(qkv.device):
        stream = torch.cuda.current_stream().cuda_stream
        return launch(library, spec, qkv, bias_table, pad_kv, logit_scale, stream=stream)


def launch(
    library: KernelLibrary,
    spec: AttentionSpec,
    qkv: Tensor,
    bias_table: Tensor | None = None,
    pad_kv: Tensor | None = None,
    logit_scale: Tensor | None = None,
    *,
    variant: int = 0,
    stream: int = 0,
) -> Tensor:
    """Hand tensors to a kernel library, whichever memory it works in.

    Args:
        library: The kernels, or on CPU tensors their emulator.
        spec: What to compute.
        qkv: As in `fused_attention`, like the other tensors; they are copied to contiguous
            float32, `qkv` to contiguous aligned memory, only where they are not that.
        bias_table: As above.
        pad_kv: As above.
        logit_scale: As above.
        variant: One of the library's variants, or 0 for its own choice.
        stream: The `cudaStream_t` to enqueue on.

    Returns:
        `[B, H, W, spec.out_channels]` of the type of `qkv`.

    Raises:
        SpecError: If a tensor is missing, of another size, or on another device than `qkv`.
        PluginError: If the library refuses the launch or it fails.
    """
    given = {"bias_table": bias_table, "pad_kv": pad_kv, "logit_scale": logit_scale}
    # Copies made here are freed in the order of the stream: the allocator hands their memory to
    # later work only.
    tables = {
        name: _table(name, given[name], shape, qkv.device)
        for name, shape in spec.input_shapes().items()
    }
    if qkv.shape[-1] != spec.qkv_channels:
        raise SpecError(f"qkv has {qkv.shape[-1]} channels; expected {spec.qkv_channels}")
    batch, height, width, _ = qkv.shape
    qkv = _aligned(qkv)
    out = qkv.new_empty((batch, height, width, spec.out_channels))
    if batch == 0:  # nothing to do, and no memory to point to
        return out
    name = _TYPE_NAMES[qkv.dtype]
    library.launch(
        spec,
        qkv=qkv.data_ptr(),
        out=out.data_ptr(),
        **{name: table.data_ptr() for name, table in tables.items()},
        shape=(batch, height, width),
        in_type=name,
        out_type=name,
        variant=variant,
        stream=stream,
    )
    return out


def _table(
    name: str, tensor: Tensor | None, shape: tuple[int, ...], device: torch.device
) -> Tensor:
    """Check one of the inputs beside `qkv` and lay it out as the kernels read it."""
    if tensor is None or tuple(tensor.shape) != shape:
        got = "missing" if tensor is None else f"of shape {list(tensor.shape)}"
        raise SpecError(f"{name} is {got}; expected the shape {list(shape)}")
    if tensor.device != device:
        raise SpecError(f"{name} is on {tensor.device} and qkv on {device}; expected one device")
    return tensor.to(torch.float32).contiguous()


def _aligned(tensor: Tensor) -> Tensor:
    """Make a tensor contiguous and aligned, by a copy where it is not: fresh memory is aligned."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % ALIGNMENT_BYTES == 0 else tensor.clone()


def _tell_unfused(reason: str, device: torch.device) -> None:
    """Warn of a reason once, or refuse."""
    required = _required
    if required is None:
        required = os.environ.get(REQUIRE_VARIABLE, "") not in ("", "0")
    if required:
        raise PluginError(
            f"attention on {device} cannot run fused: {reason}",
            f"call require_fused(False) or unset {REQUIRE_VARIABLE} to let PyTorch's operators do",
        )
    if reason not in _told:
        _told.add(reason)
        warnings.warn(
            f"attention on {device} runs unfused, as PyTorch's operators: {reason}",
            UnfusedAttentionWarning,
            stacklevel=3,
        )


def _sentence(err: EdgeAttnError) -> str:
    return f"{err.message} ({err.hint})" if err.hint else err.message
