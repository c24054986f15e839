"""What the compiled kernels are made of, for each GPU: no GPU is needed to see a spill.

The normal run compiles a few files for Orin, the slow one everything for every architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgeattn.plugin.kernels import Emulator
from edgeattn.plugin.resources import (
    VARIANT_IDS,
    KernelForm,
    KernelResources,
    compile_kernels,
    form_of,
    kernel_for,
    planned_shared_bytes,
    resident_ctas,
)
from edgeattn.plugin.source import plugin_source
from edgeattn.plugin.toolchain import find_cuda_program, require_nvcc
from edgeattn.targets import SMS

pytestmark = pytest.mark.nvcc

FILES = sorted(path.name for path in (plugin_source() / "launch").glob("*.cu"))
ORIN = SMS[87]
# Windows whose sizes are at, below and above multiples of the tiles; one not square, one streamed.
WINDOWS = ((4, 4), (7, 7), (8, 8), (12, 12), (14, 14), (16, 16), (7, 28), (24, 24))


def compiled(files: Sequence[str], architecture: int, folder: Path) -> list[KernelResources]:
    """Compile files of `plugins/launch`, or skip where the machine code cannot be read."""
    if find_cuda_program("cuobjdump") is None:
        pytest.skip("needs cuobjdump: pip install edgeattn[cuda]")
    return compile_kernels(plugin_source(), files, architecture, folder, require_nvcc())


def faults(kernel: KernelResources) -> list[str]:
    """List what a kernel must not have, or lacks."""
    found = []
    if kernel.stack_bytes or kernel.spill_bytes or kernel.count(r"(LDL|STL).*"):
        found.append(f"{kernel.stack_bytes} bytes of local memory, {kernel.spill_bytes} spilt")
    if kernel.registers > 255:
        found.append(f"{kernel.registers} registers")
    if form_of(kernel).element == "float32":
        return found  # plain on purpose: exact, for any head_dim
    if not kernel.count(r"HMMA\..*"):
        found.append("no matrix instruction")
    if not kernel.count(r"LDGSTS\..*\.128(\..*)?"):
        found.append("no copy of 16 bytes into shared memory")
    # INT8 output has half the bytes; the same kernel writes FP16 too.
    whole = r"STG\..*\.128(\..*)?"
    allowed = r"STG\..*\.(128|64)(\..*)?" if form_of(kernel).element == "int8" else whole
    if not kernel.count(whole) or kernel.count(r"STG\..*") > kernel.count(allowed):
        found.append("stores of fewer than 16 bytes")
    if not kernel.count(r"LDSM\..*"):
        found.append("no ldmatrix")
    return found


def all_faults(kernels: Sequence[KernelResources]) -> dict[str, list[str]]:
    listed = {f"{kernel.name} for sm_{kernel.architecture}": faults(kernel) for kernel in kernels}
    return {name: found for name, found in listed.items() if found}


@pytest.fixture(scope="module")
def orin(tmp_path_factory: pytest.TempPathFactory) -> list[KernelResources]:
    """The kernels of two files for Orin: what most models use."""
    return compiled(["fused_f16_d32.cu", "fused_int8_d64.cu"], 87, tmp_path_factory.mktemp("sm_87"))


def test_each_file_holds_the_kernels_that_its_name_says(orin: list[KernelResources]) -> None:
    fused = {"small tiles", "wide tiles", "one pass", "streamed"}
    found: dict[str, set[tuple[str, int, str]]] = {}
    for kernel in orin:
        form = form_of(kernel)
        found.setdefault(kernel.file, set()).add((form.element, form.head_dim, form.variant))
    assert found == {
        "fused_f16_d32.cu": {("float16", 32, variant) for variant in fused},
        "fused_int8_d64.cu": {("int8", 64, variant) for variant in fused},
    }


def test_the_kernels_for_orin_spill_nothing_and_move_16_bytes_at_a_time(
    orin: list[KernelResources],
) -> None:
    assert not all_faults(orin)


def test_a_fault_is_seen(orin: list[KernelResources]) -> None:
    kernel = next(kernel for kernel in orin if not faults(kernel))
    named = ("LDGSTS", "STG", "LDSM", "MMA")
    without = [
        {name: n for name, n in kernel.instructions.items() if part not in name} for part in named
    ]
    assert all(faults(replace(kernel, instructions=instructions)) for instructions in without)
    assert faults(replace(kernel, instructions={**kernel.instructions, "LDL.LU": 1}))
    assert faults(replace(kernel, stack_bytes=8))
    assert faults(replace(kernel, spill_bytes=8))


def lonely(emulator: Emulator, kernels: Sequence[KernelResources]) -> list[str]:
    """List the fused kernels for Orin of which an SM does not hold two CTAs."""
    found = []
    seen = set()
    forms = {form_of(kernel) for kernel in kernels} - {KernelForm("float32", 0, "plain", 0)}
    for element, head_dim, variant in {(f.element, f.head_dim, f.variant) for f in forms}:
        for window in WINDOWS:
            keys = window[0] * window[1]
            planned = planned_shared_bytes(
                emulator, element, head_dim, window, VARIANT_IDS[variant]
            )
            kernel = kernel_for(kernels, element, head_dim, variant, keys)
            if planned is None or kernel is None:
                assert planned is None, (element, head_dim, variant, window)
                continue
            seen.add(form_of(kernel))
            shared = planned[1] + kernel.static_shared_bytes
            if resident_ctas(ORIN, kernel.registers, shared) < 2:
                found.append(f"{kernel.name}, window {window}: {shared} bytes")
    assert seen == forms  # each was launched
    return found


def test_two_ctas_share_an_sm_of_orin(emulator: Emulator, orin: list[KernelResources]) -> None:
    assert not lonely(emulator, orin)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SMS)
def test_no_kernel_of_any_gpu_has_a_fault(
    architecture: int, emulator: Emulator, tmp_path: Path
) -> None:
    kernels = compiled(FILES, architecture, tmp_path)
    assert {kernel.architecture for kernel in kernels} == {architecture}
    elements = {form_of(kernel).element for kernel in kernels}
    assert elements == {"float32", "float16", "bfloat16", "int8"}
    assert not all_faults(kernels)
    if architecture == 87:
        assert not lonely(emulator, kernels)
