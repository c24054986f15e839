"""Compile every kernel for every GPU and write the tables of docs/kernels.md: `make kernels-page`.

Takes about ten minutes on two cores; needs nvcc and cuobjdump (`pip install "edgeattn[cuda]"`) and
g++ for the emulator, but no GPU.
"""

from __future__ import annotations

import datetime
import itertools
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PAGE = Path(__file__).parent / "kernels.md"
sys.path.insert(0, str(PAGE.parents[1]))  # the benchmarks are no installed package

from benchmarks.pages import markdown, write_blocks  # noqa: E402
from edgeattn.plugin.emulator import build_emulator  # noqa: E402
from edgeattn.plugin.kernels import Emulator  # noqa: E402
from edgeattn.plugin.resources import (  # noqa: E402
    VARIANT_IDS,
    KernelResources,
    compile_kernels,
    form_of,
    kernel_for,
    planned_shared_bytes,
    resident_ctas,
)
from edgeattn.plugin.roofline import MEASURED_H200, roofline  # noqa: E402
from edgeattn.plugin.source import plugin_source, source_sha256  # noqa: E402
from edgeattn.plugin.toolchain import Nvcc, require_nvcc  # noqa: E402
from edgeattn.targets import AGX_ORIN, ORIN_NANO_SUPER, SMS, THOR  # noqa: E402

WINDOWS = (4, 7, 8, 12, 14, 16, 32)
TYPES = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "int8": "INT8"}
GPUS = (MEASURED_H200, AGX_ORIN, ORIN_NANO_SUPER, THOR)


def main() -> None:
    """Measure, and replace the blocks of the page."""
    source, nvcc = plugin_source(), require_nvcc()
    kernels = {number: compile_all(source, number, nvcc) for number in SMS}
    emulator = Emulator(build_emulator())
    today = datetime.datetime.now(datetime.timezone.utc).date()
    how = (
        f"`make kernels-page`, {today}: nvcc {nvcc.version_text}, source "
        f"`{source_sha256(source)[:12]}`."
    )
    blocks = {
        "orin": f"{orin_table(kernels[87])}\n\n{how}",
        "shared": f"{shared_table(kernels[87], emulator)}\n\n{how}",
        "architectures": f"{architecture_table(kernels)}\n\n{how}",
        "roofline": roofline_table(),
    }
    write_blocks(PAGE, blocks)


def compile_all(source: Path, architecture: int, nvcc: Nvcc) -> list[KernelResources]:
    """Compile every kernel for an SM, as many files at a time as there are cores."""
    files = sorted(path.name for path in (source / "launch").glob("*.cu"))
    sys.stderr.write(f"compiling {len(files)} files for sm_{architecture}\n")
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        found = pool.map(
            lambda file: compile_kernels(source, [file], architecture, Path(folder), nvcc), files
        )
        return [kernel for kernels in found for kernel in kernels]


def orin_table(kernels: Sequence[KernelResources]) -> str:
    """Write what each kernel takes on Orin and what it is made of."""
    rows = []
    for kernel in sorted(kernels, key=_order):
        form = form_of(kernel)
        rows.append(
            (
                TYPES[form.element],
                str(form.head_dim or "any"),
                form.variant,
                f"up to {form.max_keys}" if form.max_keys else "any",
                str(kernel.registers),
                str(kernel.spill_bytes),
                str(resident_ctas(SMS[87], kernel.registers, 0)),
                str(kernel.count(r"HMMA\..*")),
                str(kernel.count(r"LDGSTS\..*\.128(\..*)?")),
                str(kernel.count(r"LDSM\..*")),
                str(sum(kernel.instructions.values())),
            )
        )
    columns = (
        *("type", "head_dim", "variant", "keys", "registers", "spilt bytes", "CTAs"),
        *("matrix instructions", "16-byte copies", "ldmatrix", "instructions"),
    )
    return markdown(columns, rows)


def shared_table(kernels: Sequence[KernelResources], emulator: Emulator) -> str:
    """Write the shared memory of the library's choice, and how many CTAs share an SM of Orin."""
    names = {number: name for name, number in VARIANT_IDS.items()}
    rows = []
    for element, head_dim, window in itertools.product(("float16", "int8"), (32, 64, 128), WINDOWS):
        planned = planned_shared_bytes(emulator, element, head_dim, (window, window))
        variant, shared = planned or (0, 0)
        kernel = kernel_for(kernels, element, head_dim, names[variant], window**2)
        if kernel is None:
            sys.exit(f"no kernel was compiled for {element}, {head_dim}, {names[variant]}")
        rows.append(
            (
                TYPES[element],
                str(head_dim),
                f"{window}x{window}",
                names[variant],
                f"{shared / 1024:.1f}",
                str(resident_ctas(SMS[87], kernel.registers, shared)),
            )
        )
    columns = ("type", "head_dim", "window", "variant", "shared KiB per CTA", "CTAs per Orin SM")
    return markdown(columns, rows)


def architecture_table(kernels: dict[int, list[KernelResources]]) -> str:
    """Write what no kernel may have, over all GPUs."""
    rows = []
    for number, found in kernels.items():
        fused = [kernel for kernel in found if form_of(kernel).element != "float32"]
        rows.append(
            (
                f"sm_{number}",
                SMS[number].gpus,
                str(len(found)),
                f"{min(k.registers for k in found)} to {max(k.registers for k in found)}",
                str(sum(kernel.spill_bytes for kernel in found)),
                str(sum(kernel.count(r"(LDL|STL).*") for kernel in found)),
                str(sum(not kernel.count(r"HMMA\..*") for kernel in fused)),
            )
        )
    columns = (
        *("SM", "GPUs", "kernels", "registers", "spilt bytes", "local memory instructions"),
        "fused kernels without matrix instructions",
    )
    return markdown(columns, rows)


def roofline_table() -> str:
    """Write the least time of windows of each size on each GPU."""
    rows = []
    for window in WINDOWS:
        cells = [f"{window}x{window}"]
        for gpu in GPUS:
            line = roofline(gpu, window, tokens=64 * 64, heads=12, head_dim=32)
            products = line.products_us / line.memory_us
            exponentials = line.exponentials_us / line.memory_us
            cells.append(
                f"{line.least_us:.1f} µs, {line.bound} ({products:.2f}, {exponentials:.2f})"
            )
        rows.append(tuple(cells))
    return markdown(("window", *(gpu.name for gpu in GPUS)), rows)


def _order(kernel: KernelResources) -> tuple[int, ...]:
    form = form_of(kernel)
    types, variants = list(TYPES), list(VARIANT_IDS)
    key = (types.index(form.element), form.head_dim, variants.index(form.variant))
    return (*key, -form.max_keys, kernel.registers)


if __name__ == "__main__":
    main()
