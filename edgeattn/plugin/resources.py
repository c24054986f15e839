"""What a compiled kernel takes of an SM, and what it is made of: ptxas and the machine code tell.

No GPU is needed: a kernel that spills, that reads single bytes or that leaves an SM half empty
shows it here.
"""

from __future__ import annotations

import math
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeattn.errors import MissingDependencyError, PluginError
from edgeattn.plugin.kernels import Emulator
from edgeattn.plugin.toolchain import Nvcc, find_cuda_program
from edgeattn.spec import AttentionSpec, HeadGroup
from edgeattn.targets import CTA_RESERVED_SHARED_BYTES, SM_REGISTERS, WARP_REGISTER_UNIT, Sm

# As plugins/CMakeLists.txt compiles a release.
_FLAGS = ("-std=c++17", "-O3", "-DNDEBUG", "-Xptxas=-v")

_ENTRY = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\d+)")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
_FUNCTION = re.compile(r"^\s*Function : (\S+)")
# An instruction with its address, a predicate at most, and its name with all modifiers.
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)")


@dataclass(frozen=True)
class KernelResources:
    """A kernel for one GPU architecture.

    Attributes:
        name: In C++, with template arguments.
        file: Name of its source file.
        architecture: SM number.
        registers: Of each thread.
        stack_bytes: Local memory of each thread.
        spill_bytes: Stored to and loaded from it because registers ran out.
        static_shared_bytes: Shared memory besides what the launch asks for.
        instructions: How often each machine instruction stands in the code, by its whole name.
    """

    name: str
    file: str
    architecture: int
    registers: int
    stack_bytes: int
    spill_bytes: int
    static_shared_bytes: int
    instructions: Mapping[str, int]

    def count(self, pattern: str) -> int:
        """Count the instructions whose whole name matches a regular expression."""
        matches = re.compile(pattern).fullmatch
        return sum(number for name, number in self.instructions.items() if matches(name))


@dataclass(frozen=True)
class KernelForm:
    """Which of the attention kernels a compiled one is.

    Attributes:
        element: Type of the tensors.
        head_dim: Channels of a head that it is made for; 0 for any.
        variant: Name of the variant, as in `plugins/launch/variants.h`.
        max_keys: Keys of the largest window that it takes; 0 for any that the variant serves.
    """

    element: str
    head_dim: int
    variant: str
    max_keys: int


# Ids of the variants, by name, as in `plugins/launch/variants.h`.
VARIANT_IDS = {"plain": 1, "small tiles": 2, "wide tiles": 3, "one pass": 4, "streamed": 5}
THREADS = 128  # of a CTA of every kernel

_ELEMENTS = {"half_t": "float16", "bf16_t": "bfloat16", "signed char": "int8", "int8_t": "int8"}
# Tiles of 16 queries and of 16 keys that a warp holds.
_RESIDENT_VARIANTS = {(1, 4): "small tiles", (2, 4): "wide tiles", (1, 16): "one pass"}
_FUSED = re.compile(
    r"window_attention_(resident|streamed)_kernel"
    r"<(.+), (\d+), (\d+), (\d+), (?:(true|false), )?\d+>"
)


def form_of(kernel: KernelResources) -> KernelForm:
    """Tell by a kernel's name which one it is.

    Raises:
        PluginError: If it has no such name.
    """
    fused = _FUSED.search(kernel.name)
    if fused:
        kind, element, head_dim, rows, keys, one_chunk = fused.groups()
        tiles = (int(rows), int(keys))
        variant = "streamed" if kind == "streamed" else _RESIDENT_VARIANTS.get(tiles)
        name = _ELEMENTS.get(element.removeprefix("edgeattn::"))
        if variant and name:
            max_keys = 16 * int(keys) if one_chunk == "true" else 0
            return KernelForm(name, int(head_dim), variant, max_keys)
    elif "window_attention_plain_kernel" in kernel.name:
        return KernelForm("float32", 0, "plain", 0)
    raise PluginError(f"{kernel.name} in {kernel.file} is none of the attention kernels")


def kernel_for(
    kernels: Sequence[KernelResources], element: str, head_dim: int, variant: str, keys: int
) -> KernelResources | None:
    """Find the kernel that a variant launches for windows of some keys; `None` if there is none."""
    fitting = []
    for kernel in kernels:
        form = form_of(kernel)
        same = (form.element, form.head_dim, form.variant) == (element, head_dim, variant)
        if same and (form.max_keys == 0 or keys <= form.max_keys):
            fitting.append((form.max_keys or math.inf, kernel))
    return min(fitting, key=lambda pair: pair[0])[1] if fitting else None


def compile_kernels(
    source: Path, files: Sequence[str], architecture: int, folder: Path, nvcc: Nvcc
) -> list[KernelResources]:
    """Compile source files to machine code and take stock of each kernel in them.

    Args:
        source: `plugins/`.
        files: Names of files in its `launch`.
        architecture: SM number.
        folder: Where the machine code goes.
        nvcc: The compiler.

    Raises:
        PluginError: If a file does not compile.
        MissingDependencyError: If cuobjdump is missing.
    """
    cuobjdump = find_cuda_program("cuobjdump")
    if cuobjdump is None:
        raise MissingDependencyError(
            "reading machine code needs cuobjdump, which is not on this machine",
            'pip install "edgeattn[cuda]"',
        )
    kernels = []
    for file in files:
        cubin = folder / f"{Path(file).stem}.sm_{architecture}.cubin"
        compiled = _run(
            [
                *(str(nvcc.path), "-cubin", f"-arch=sm_{nvcc.spell(architecture)}", *_FLAGS),
                *(f"-I{source / 'include'}", str(source / "launch" / file), "-o", str(cubin)),
            ]
        )
        listing = _run([str(cuobjdump), "-sass", str(cubin)])
        kernels += parse_kernels(compiled, listing, file)
    return kernels


def parse_kernels(compiled: str, listing: str, file: str) -> list[KernelResources]:
    """Read what `ptxas -v` and `cuobjdump -sass` say of the kernels of a file.

    Raises:
        PluginError: If they do not speak of the same kernels.
    """
    instructions = _count_instructions(listing)
    blocks = _ENTRY.split(compiled)[1:]
    found = list(zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True))
    if {name for name, _, _ in found} != instructions.keys():
        raise PluginError(f"ptxas and cuobjdump tell of other kernels in {file}")
    demangled = _demangle([name for name, _, _ in found])
    kernels = []
    for name, number, told in found:
        stack, used = _STACK.search(told), _USED.search(told)
        if not stack or not used:
            raise PluginError(f"ptxas does not tell the registers and the stack of {name}")
        kernels.append(
            KernelResources(
                demangled[name],
                file,
                int(number),
                int(used[1]),
                int(stack[1]),
                int(stack[2]) + int(stack[3]),
                int(used[2] or 0),
                instructions[name],
            )
        )
    return kernels


def planned_shared_bytes(
    emulator: Emulator, element: str, head_dim: int, window: tuple[int, int], variant: int = 0
) -> tuple[int, int] | None:
    """Ask for the dynamic shared memory that the kernels' own planning gives a CTA.

    Args:
        emulator: The kernels on the CPU.
        element: Type of the tensors.
        head_dim: Channels of a head.
        window: `(rows, cols)` in tokens, with a bias table.
        variant: Its id; 0 for the library's choice.

    Returns:
        The variant's id and the bytes; `None` if it does not serve such windows.
    """
    spec = AttentionSpec(
        head_dim,
        4,
        (HeadGroup(4, window),),
        has_bias=True,
        qkv_quant_scale=0.03 if element == "int8" else 0.0,
        out_quant_scale=0.02 if element == "int8" else 0.0,
    )
    # Enough small windows for a CTA to take one after the other.
    across = 4 if window[0] * window[1] <= 64 else 1
    height, width = across * window[0], across * window[1]
    ranked = emulator.variants(spec, element, element, (1, height, width))
    variant = variant or ranked[0]
    if variant not in ranked:
        return None
    bits = np.dtype("uint16" if element == "bfloat16" else element)
    tensors = {
        "qkv": np.zeros((1, height, width, spec.qkv_channels), bits),
        "bias_table": np.zeros(spec.bias_entries, np.float32),
    }
    emulator.take_statistics()
    emulator.run(spec, tensors, variant=variant)
    return variant, int(emulator.take_statistics()["shared_bytes_per_cta"])


def resident_ctas(sm: Sm, registers: int, shared_bytes: int, threads: int = THREADS) -> int:
    """Count the CTAs that one SM holds at a time.

    Args:
        sm: The SM.
        registers: Of each thread.
        shared_bytes: Of each CTA, static and dynamic.
        threads: Of each CTA.

    References:
        `cuda_occupancy.h` of CUDA 13.0: registers go to warps in units, and a CTA takes a
        kibibyte of shared memory for the system.
    """
    warps = math.ceil(threads / 32)
    unit = WARP_REGISTER_UNIT
    warp_registers = math.ceil(registers * 32 / unit) * unit
    return min(
        sm.max_threads // (warps * 32),
        SM_REGISTERS // (warp_registers * warps),
        sm.shared_bytes // (math.ceil(shared_bytes / 128) * 128 + CTA_RESERVED_SHARED_BYTES),
    )


def _count_instructions(listing: str) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    current: Counter[str] = Counter()
    for line in listing.splitlines():
        function = _FUNCTION.match(line)
        if function:
            current = counts.setdefault(function[1], Counter())
        instruction = _INSTRUCTION.match(line)
        if instruction:
            current[instruction[1]] += 1
    return counts


def _demangle(names: Sequence[str]) -> dict[str, str]:
    if not names:
        return {}
    told = _run(["c++filt", "--no-params", *names]).splitlines()
    return dict(zip(names, (name.removeprefix("void ") for name in told), strict=True))


def _run(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as err:
        raise PluginError(f"{command[0]} cannot be run: {err.strerror}") from err
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise PluginError(f"{command[0]} failed: {said[0] if said else 'it said nothing'}")
    return done.stdout + done.stderr
