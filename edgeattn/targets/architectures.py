"""GPU architectures: what an SM holds, what it computes in, and what a library runs on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeattn.errors import TargetError

# The oldest SM whose tensor cores multiply in a type.
_OLDEST_SM = {"FP16": 70, "INT8": 72, "TF32": 80, "BF16": 80, "FP8": 89, "FP4": 100}


@dataclass(frozen=True)
class Sm:
    """What CTAs of one GPU architecture share: its streaming multiprocessor.

    Attributes:
        number: Compute capability times ten, as nvcc spells it: 87 for sm_87.
        gpus: What has it, for people.
        shared_bytes: Shared memory that the CTAs of one SM share.
        max_threads: Threads that one SM holds.
        fp16_per_clock: Operations of dense FP16 products that one SM does in a clock, FP32
            accumulation included; twice as many in INT8. Cards that halve them say so (`Gpu`).

    References:
        `cuda_occupancy.h` of CUDA 13.0: shared memory partitions, warps per SM. The rates are those
        whose product with SMs and clock are the peaks of NVIDIA's white papers.
    """

    number: int
    gpus: str
    shared_bytes: int
    max_threads: int
    fp16_per_clock: int

    @property
    def precisions(self) -> tuple[str, ...]:
        """Types that its tensor cores multiply in."""
        return precisions_of(self.number)


def precisions_of(number: int) -> tuple[str, ...]:
    """List the types that a GPU's tensor cores multiply in.

    Args:
        number: Its SM number, of whichever GPU.

    References:
        CUDA programming guide, "Compute capabilities": TF32 and BF16 from 8.0, FP8 from 8.9, FP4
        from 10.0 on.
    """
    return tuple(name for name, oldest in _OLDEST_SM.items() if number >= oldest)


SMS = {
    sm.number: sm
    for sm in (
        Sm(80, "A100, A30", 164 * 1024, 2048, 2048),
        Sm(86, "GeForce RTX 30, A2 to A40", 100 * 1024, 1536, 1024),
        Sm(87, "Jetson Orin", 164 * 1024, 1536, 2048),
        Sm(89, "GeForce RTX 40, L4, L40", 100 * 1024, 1536, 1024),
        Sm(90, "H100, H200, GH200", 228 * 1024, 2048, 4096),
        Sm(100, "B200, GB200", 228 * 1024, 2048, 8192),
        Sm(110, "Jetson Thor", 228 * 1024, 1536, 8192),
        Sm(120, "GeForce RTX 50", 100 * 1024, 1536, 1024),
    )
}

# Alike in all of them. Each CTA costs a kibibyte of shared memory besides what it asks for; a warp
# gets its registers in units of 256.
SM_REGISTERS = 65536
WARP_REGISTER_UNIT = 256
CTA_RESERVED_SHARED_BYTES = 1024


def check_architectures(numbers: Iterable[int]) -> tuple[int, ...]:
    """Sort SM numbers and drop repetitions.

    Raises:
        TargetError: If the kernels are not written for one of them.
    """
    found = tuple(sorted(set(numbers)))
    unknown = [number for number in found if number not in SMS]
    if unknown:
        raise TargetError(
            f"the kernels know no GPU architecture {', '.join(map(str, unknown))}; "
            f"expected some of {', '.join(map(str, SMS))}",
            "SM numbers are the compute capability without its dot: 87 for Orin, 110 for Thor",
        )
    return found


def runs_on(architectures: Iterable[int], device: int) -> bool:
    """Tell whether a library of these architectures runs on a GPU.

    Machine code runs on its own SM and on later ones of the same major number; the library holds
    PTX of its newest architecture too, which the driver compiles for anything later.

    Args:
        architectures: SM numbers that the library was built for.
        device: SM number of the GPU.
    """
    numbers = list(architectures)
    return has_machine_code(numbers, device) or (bool(numbers) and max(numbers) <= device)


def has_machine_code(architectures: Iterable[int], device: int) -> bool:
    """Tell whether a library of these architectures runs on a GPU without its driver compiling.

    Args:
        architectures: SM numbers that the library was built for.
        device: SM number of the GPU.
    """
    return any(n <= device and n // 10 == device // 10 for n in architectures)
