"""Taking stock of compiled kernels: faults that are planted in small ones are seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeattn.errors import PluginError
from edgeattn.plugin.resources import (
    KernelForm,
    KernelResources,
    compile_kernels,
    form_of,
    kernel_for,
    parse_kernels,
    resident_ctas,
)
from edgeattn.plugin.toolchain import find_cuda_program, require_nvcc
from edgeattn.targets import SMS

KERNELS = """
#include <cuda_fp16.h>
#include <mma.h>

namespace small {
template <typename T, int kLanes>
__global__ void wide_kernel(T const* in, T* out) { out[threadIdx.x] = in[threadIdx.x]; }
template __global__ void wide_kernel<float4, 4>(float4 const*, float4*);

__global__ void stack_kernel(int* out, int n) {
  int values[64];
  for (int i = 0; i < 64; ++i) values[i] = out[i] * n;
  for (int i = 0; i < n; ++i) out[i] = values[out[i] & 63];
}

__global__ void shared_kernel(float* out) {
  __shared__ float staged[96];
  staged[threadIdx.x] = out[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = staged[95 - threadIdx.x];
}

__global__ void products_kernel(__half const* a, __half const* b, float* c) {
  using namespace nvcuda::wmma;
  fragment<matrix_a, 16, 16, 16, __half, row_major> x;
  fragment<matrix_b, 16, 16, 16, __half, col_major> y;
  fragment<accumulator, 16, 16, 16, float> z;
  fill_fragment(z, 0.0F);
  load_matrix_sync(x, a, 16);
  load_matrix_sync(y, b, 16);
  mma_sync(z, x, y, z);
  store_matrix_sync(c, z, 16, mem_row_major);
}
}  // namespace small
"""


@pytest.mark.nvcc
@pytest.mark.parametrize("architecture", [87, 110])
def test_what_kernels_take_and_are_made_of(tmp_path: Path, architecture: int) -> None:
    if find_cuda_program("cuobjdump") is None:
        pytest.skip("needs cuobjdump")
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch/small.cu").write_text(KERNELS)
    found = compile_kernels(tmp_path, ["small.cu"], architecture, tmp_path, require_nvcc())
    kernels = {kernel.name: kernel for kernel in found}
    assert set(kernels) == {
        "small::wide_kernel<float4, 4>",
        "small::stack_kernel",
        "small::shared_kernel",
        "small::products_kernel",
    }
    wide = kernels["small::wide_kernel<float4, 4>"]
    assert (wide.architecture, wide.file) == (architecture, "small.cu")
    assert wide.count(r"LDG.*\.128.*") == wide.count(r"STG.*\.128.*") == 1
    assert 4 < wide.registers < 32
    assert wide.stack_bytes == wide.spill_bytes == wide.static_shared_bytes == 0
    stack = kernels["small::stack_kernel"]
    assert stack.stack_bytes >= 256
    assert stack.count("LDL.*") > 0
    assert stack.count("STL.*") > 0
    assert kernels["small::shared_kernel"].static_shared_bytes == 384
    assert kernels["small::products_kernel"].count("HMMA.*") == 2
    assert wide.count("HMMA.*") == 0


@pytest.mark.nvcc
def test_an_error_of_the_compiler_is_told(tmp_path: Path) -> None:
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch/bad.cu").write_text("int one() { return undeclared; }")
    if find_cuda_program("cuobjdump") is None:
        pytest.skip("needs cuobjdump")
    with pytest.raises(PluginError, match="undeclared"):
        compile_kernels(tmp_path, ["bad.cu"], 87, tmp_path, require_nvcc())


PTXAS = """
ptxas info    : Compiling entry function '_Z3onePf' for 'sm_86'
ptxas info    : Function properties for _Z3onePf
    24 bytes stack frame, 20 bytes spill stores, 36 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 24 bytes cumulative stack size, 512 bytes smem
ptxas info    : Compiling entry function '_Z3twov' for 'sm_86'
ptxas info    : Function properties for _Z3twov
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers, 352 bytes cmem[0]
"""
SASS = """
		Function : _Z3twov
	.headerflags	@"EF_CUDA_SM86"
        /*0000*/                   EXIT ;                     /* 0x000000000000794d */
                                                              /* 0x000fea0003800000 */
		Function : _Z3onePf
        /*0000*/              @!P0 LDG.E.128 R4, [R2.64] ;    /* 0x00000002ff007c0c */
        /*0010*/             @!UP1 ULDC.64 UR4, c[0x0][0x8] ; /* 0x00000002ff007c0c */
        /*0020*/                   LDG.E R0, [R2.64] ;        /* 0x00000002ff007c0c */
"""


def test_the_output_of_both_programs_is_brought_together() -> None:
    one, two = parse_kernels(PTXAS, SASS, "x.cu")
    assert (one.name, one.registers, one.stack_bytes, one.spill_bytes) == ("one", 255, 24, 56)
    assert (one.static_shared_bytes, one.architecture) == (512, 86)
    assert one.instructions == {"LDG.E.128": 1, "ULDC.64": 1, "LDG.E": 1}
    assert (two.name, two.registers, two.static_shared_bytes) == ("two", 8, 0)
    with pytest.raises(PluginError, match=r"tell of other kernels in x.cu"):
        parse_kernels(PTXAS, SASS.replace("_Z3twov", "_Z5threev"), "x.cu")
    with pytest.raises(PluginError, match="does not tell the registers and the stack of _Z3twov"):
        parse_kernels(PTXAS.replace("Used 8", "Needs 8"), SASS, "x.cu")


@pytest.mark.parametrize(
    ("sm", "registers", "shared_kib", "ctas"),
    [
        (87, 128, 80, 2),
        (87, 128, 81, 2),
        (87, 128, 81.2, 1),  # with the kibibyte of the system, two do not fit into 164
        (86, 128, 48, 2),
        (86, 128, 49.2, 1),
        (87, 255, 0, 2),
        (87, 168, 0, 3),
        (87, 169, 0, 2),  # registers come in units of 8 a thread
        (87, 32, 0, 12),  # 1,536 threads
        (90, 32, 0, 16),
        (90, 128, 113, 2),
    ],
)
def test_how_many_ctas_share_an_sm(sm: int, registers: int, shared_kib: float, ctas: int) -> None:
    assert resident_ctas(SMS[sm], registers, int(shared_kib * 1024), 128) == ctas


def named(name: str) -> KernelResources:
    return KernelResources(f"edgeattn::{name}", "x.cu", 87, 100, 0, 0, 0, {})


RESIDENT, STREAMED = "window_attention_resident_kernel", "window_attention_streamed_kernel"


@pytest.mark.parametrize(
    ("name", "form"),
    [
        (f"{RESIDENT}<edgeattn::half_t, 32, 1, 4, true, 4>", ("float16", 32, "small tiles", 64)),
        (f"{RESIDENT}<edgeattn::bf16_t, 96, 1, 4, false, 2>", ("bfloat16", 96, "small tiles", 0)),
        (f"{RESIDENT}<signed char, 64, 2, 4, false, 2>", ("int8", 64, "wide tiles", 0)),
        (f"{RESIDENT}<edgeattn::half_t, 64, 1, 16, true, 2>", ("float16", 64, "one pass", 256)),
        (f"{STREAMED}<edgeattn::half_t, 128, 1, 4, 2>", ("float16", 128, "streamed", 0)),
        ("window_attention_plain_kernel<4>", ("float32", 0, "plain", 0)),
    ],
)
def test_a_kernels_name_tells_its_form(name: str, form: tuple[str, int, str, int]) -> None:
    assert form_of(named(name)) == KernelForm(*form)


@pytest.mark.parametrize(
    "name",
    [
        "copy_kernel<4>",
        f"{RESIDENT}<edgeattn::half_t, 32, 3, 3, true, 4>",
        f"{RESIDENT}<float, 32, 1, 4, true, 4>",
    ],
)
def test_another_kernel_has_no_form(name: str) -> None:
    with pytest.raises(PluginError, match=r"in x.cu is none of the attention kernels"):
        form_of(named(name))


def test_the_kernel_for_a_window_is_the_one_made_for_its_size() -> None:
    small = named(f"{RESIDENT}<edgeattn::half_t, 32, 2, 4, true, 3>")
    large = named(f"{RESIDENT}<edgeattn::half_t, 32, 2, 4, false, 3>")
    whole = named(f"{RESIDENT}<edgeattn::half_t, 32, 1, 16, true, 2>")
    kernels = [large, small, whole]
    assert kernel_for(kernels, "float16", 32, "wide tiles", 64) is small
    assert kernel_for(kernels, "float16", 32, "wide tiles", 65) is large
    assert kernel_for(kernels, "float16", 32, "one pass", 256) is whole
    assert kernel_for(kernels, "float16", 32, "one pass", 257) is None
    assert kernel_for(kernels, "int8", 32, "one pass", 49) is None
