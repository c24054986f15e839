"""The boards that engines are built for: what is on them, and which software they run.

Plain data with its sources; importing it costs nothing. Figures that no source at hand gives are
`None`, never guessed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from edgeattn.errors import TargetError


@dataclass(frozen=True)
class Sm:
    """What CTAs of one GPU architecture share: its streaming multiprocessor.

    Attributes:
        number: Compute capability times ten, as nvcc spells it: 87 for sm_87.
        gpus: What has it, for people.
        shared_bytes: Shared memory that the CTAs of one SM share.
        max_threads: Threads that one SM holds.

    References:
        `cuda_occupancy.h` of CUDA 13.0: shared memory partitions, warps per SM.
    """

    number: int
    gpus: str
    shared_bytes: int
    max_threads: int


SMS = {
    sm.number: sm
    for sm in (
        Sm(80, "A100, A30", 164 * 1024, 2048),
        Sm(86, "GeForce RTX 30, A2 to A40", 100 * 1024, 1536),
        Sm(87, "Jetson Orin", 164 * 1024, 1536),
        Sm(89, "GeForce RTX 40, L4, L40", 100 * 1024, 1536),
        Sm(90, "H100, H200, GH200", 228 * 1024, 2048),
        Sm(100, "B200, GB200", 228 * 1024, 2048),
        Sm(110, "Jetson Thor", 228 * 1024, 1536),
        Sm(120, "GeForce RTX 50", 100 * 1024, 1536),
    )
}

# Alike in all of them. Each CTA costs a kibibyte of shared memory besides what it asks for; a warp
# gets its registers in units of 256.
SM_REGISTERS = 65536
WARP_REGISTER_UNIT = 256
CTA_RESERVED_SHARED_BYTES = 1024


@dataclass(frozen=True)
class Gpu:
    """A GPU's figures, of the largest module with the clocks unlocked.

    Attributes:
        name: Which module.
        architecture: SM number.
        sm_count: Streaming multiprocessors.
        clock_ghz: Their clock.
        memory_gb_s: Peak memory bandwidth in 10^9 bytes a second; for H200 that of a copy.
        fp16_tflops: Dense FP16 matrix products with FP32 accumulation, peak.
        int8_tops: Dense INT8 matrix products, peak.
        source: Where the figures are from.
    """

    name: str
    architecture: int
    sm_count: int | None
    clock_ghz: float | None
    memory_gb_s: float | None
    fp16_tflops: float | None
    int8_tops: float | None
    source: str


AGX_ORIN = Gpu(
    "Jetson AGX Orin 64 GB",
    *(87, 16, 1.3, 204.8, 42.6, 85.0),
    "171 sparse INT8 TOPS (NVIDIA/Deep-Learning-Accelerator-SW), halved; FP16 half of that",
)
ORIN_NX = Gpu(
    "Jetson Orin NX 16 GB",
    *(87, 8, 0.918, None, None, None),
    "deviceQuery on the module (gist atinfinity/8cede915)",
)
ORIN_NANO_SUPER = Gpu(
    "Jetson Orin Nano Super 8 GB",
    *(87, 8, 1.02, 102.0, 16.7, 33.0),
    "datasheet of the developer kit: 67 sparse INT8 TOPS, halved; FP16 half of that",
)
THOR = Gpu(
    "Jetson Thor T5000",
    *(110, 20, 1.57, 273.0, 257.0, None),
    "2,070 sparse FP4 TFLOPS, divided by 8; `mma.sync` alone reaches less",
)
H200 = Gpu("H200", *(90, 132, 1.75, 4300.0, 790.0, None), "bandwidth of a device copy; dense BF16")


@dataclass(frozen=True)
class JetPack:
    """A release of the boards' software.

    Attributes:
        version: Such as `6.2`.
        l4t: Its Linux for Tegra.
        tensorrt: Its TensorRT.
        cuda: Its CUDA.
        python: The Python that its TensorRT is for.

    References:
        OE4T/meta-tegra, which repackages the releases: branches scarthgap, walnascar, whinlatter,
        master-l4t-r38.2.x, master-l4t-r38.4.x, master.
    """

    version: str
    l4t: str
    tensorrt: str
    cuda: str
    python: str

    @property
    def cuda_major(self) -> int:
        """Major version of its CUDA: a library that another one built does not run on it."""
        return int(self.cuda.partition(".")[0])


JETPACK_6 = (
    JetPack("6.1", "36.4.0", "10.3.0.30", "12.6.68", "3.10"),
    JetPack("6.2", "36.4.3", "10.3.0.30", "12.6.68", "3.10"),
    JetPack("6.2.1", "36.4.4", "10.3.0.30", "12.6.68", "3.10"),
    JetPack("6.2.2", "36.5.0", "10.3.0.30", "12.6.68", "3.10"),
)
JETPACK_7_0 = JetPack("7.0", "38.2", "10.13.3.9", "13.0.48", "3.12")
JETPACK_7_1 = JetPack("7.1", "38.4", "10.13.3.9", "13.0.48", "3.12")
JETPACK_7_2 = JetPack("7.2", "39.2.0", "10.16.2.10", "13.2.75", "3.12")


@dataclass(frozen=True)
class Target:
    """What an engine or a plugin can be built for.

    Attributes:
        name: As the command line spells it.
        title: For people.
        machine: The processor's architecture, as `uname -m` says it.
        architectures: SM numbers of its GPUs.
        gpu: Figures of its GPU; `None` where there are many.
        jetpacks: Releases that run on it; none on a desktop.
    """

    name: str
    title: str
    machine: str
    architectures: tuple[int, ...]
    gpu: Gpu | None
    jetpacks: tuple[JetPack, ...] = ()

    def jetpack(self, version: str) -> JetPack:
        """Find a release of the board.

        Raises:
            TargetError: If none of that version runs on it, or none is known.
        """
        for jetpack in self.jetpacks:
            if jetpack.version == version:
                return jetpack
        known = ", ".join(jetpack.version for jetpack in self.jetpacks)
        raise TargetError(
            f"no JetPack {version} is known for {self.name}; expected "
            + (known or "none: it runs no JetPack")
        )


TARGETS = {
    target.name: target
    for target in (
        Target(
            "jetson-orin-nano",
            "Jetson Orin Nano",
            "aarch64",
            (87,),
            ORIN_NANO_SUPER,
            (*JETPACK_6, JETPACK_7_2),
        ),
        Target(
            "jetson-orin-nx", "Jetson Orin NX", "aarch64", (87,), ORIN_NX, (*JETPACK_6, JETPACK_7_2)
        ),
        Target(
            "jetson-agx-orin",
            "Jetson AGX Orin",
            "aarch64",
            (87,),
            AGX_ORIN,
            (*JETPACK_6, JETPACK_7_2),
        ),
        Target(
            "jetson-thor",
            "Jetson Thor",
            "aarch64",
            (110,),
            THOR,
            (JETPACK_7_0, JETPACK_7_1, JETPACK_7_2),
        ),
        Target("desktop", "Desktop and server GPUs", "x86_64", (80, 86, 89, 90, 100, 120), None),
    )
}


# What the device trees of boards hold, in lower case.
_MODELS = {
    "orin nano": "jetson-orin-nano",
    "orin nx": "jetson-orin-nx",
    "agx orin": "jetson-agx-orin",
    "thor": "jetson-thor",
}


def target_of_model(model: str) -> Target | None:
    """Find a board by what its device tree calls it; `None` if it is none of those known."""
    for words, name in _MODELS.items():
        if words in model.lower():
            return TARGETS[name]
    return None


def find_gpu(name: str, architecture: int, model: str = "") -> Gpu | None:
    """Find the figures of a GPU.

    Args:
        name: As the driver calls it: all Orins have one name, so that the board decides.
        architecture: SM number.
        model: What the device tree calls the board; empty on a desktop.

    Returns:
        `None` if no figures of it are known.
    """
    board = target_of_model(model)
    if board is not None and architecture in board.architectures:
        return board.gpu
    is_h200 = name.split()[-1:] == [H200.name] and architecture == H200.architecture
    return H200 if is_h200 else None


def get_target(name: str) -> Target:
    """Find a target by its name.

    Raises:
        TargetError: If there is none of that name; it names those that come close.
    """
    if name in TARGETS:
        return TARGETS[name]
    near = difflib.get_close_matches(name, TARGETS)
    raise TargetError(
        f"there is no target {name!r}; expected one of {', '.join(TARGETS)}",
        f"did you mean {' or '.join(near)}?" if near else "",
    )


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
