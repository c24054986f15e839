"""The Jetson modules: memory, clocks, rates, accelerators and power modes.

Where NVIDIA gives a rate for a whole module, GPU and deep learning accelerators together, the
accelerators' share is taken off. Sparse rates are halved.

References:
    Data sheets: Orin Nano series DS-11105-001 v1.5, Orin NX series DS-10712-001 v1.5, AGX Orin
    series DS-10662-001 v1.8, Thor series DS-11945-001 v1.5. Power modes: Jetson Linux Developer
    Guide, Platform Power and Performance, R36.5 (Orin) and R38.4 (Thor). docs/targets.md says which
    were read whole, and which as public texts quote them.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeattn.targets.gpu import GIB, Gpu, cited

_NANO = "NVIDIA Jetson Orin Nano Series Data Sheet DS-11105-001 v1.5"
_NX = "NVIDIA Jetson Orin NX Series Data Sheet DS-10712-001 v1.5"
_AGX = "NVIDIA Jetson AGX Orin Series Data Sheet DS-10662-001 v1.8"
_THOR = "NVIDIA Jetson Thor Series Data Sheet DS-11945-001 v1.5, table 1-1"
_THOR_PAGE = "NVIDIA, Jetson Thor product page"
_COMPARISON = "NVIDIA, comparison of Jetson modules, performance by unit"
_ORIN_GUIDE = "Jetson Linux Developer Guide R36.5, Platform Power and Performance, Jetson Orin"
_THOR_GUIDE = "Jetson Linux Developer Guide R38.4, Platform Power and Performance, Jetson Thor"
_HALF_OF_INT8 = "worked out: half of the INT8 rate"
_SIZES = "sm_count clock_ghz memory_gb_s memory_bytes"


@dataclass(frozen=True)
class PowerMode:
    """A power mode of nvpmodel.

    Attributes:
        number: As `nvpmodel -m` takes it.
        name: As NVIDIA's guide calls it; boards may print `MODE_` before it.
        watts: Power budget; `None` if there is none.
        gpu_mhz: Most that the GPU's clock may be.
        memory_mhz: Most that the memory's clock may be.
        sm_count: SMs that have power; `None` if the guide's table was not seen to say it.
        is_super: Whether the board must have been flashed for the Super modes.
    """

    number: int
    name: str
    watts: int | None
    gpu_mhz: float
    memory_mhz: float
    sm_count: int | None = None
    is_super: bool = False


@dataclass(frozen=True)
class Module:
    """A Jetson module.

    Attributes:
        name: As the command line spells it.
        gpu: Figures with the clocks of the fastest mode that is no Super mode.
        super_gpu: Figures in Super mode; `None` if there is none or its figures are not known.
        dla_cores: Deep learning accelerators, which the toolkit does not use.
        dla_source: Where that is from.
        modes: Its power modes.
        modes_source: Where these are from.
    """

    name: str
    gpu: Gpu
    super_gpu: Gpu | None
    dla_cores: int
    dla_source: str
    modes: tuple[PowerMode, ...]
    modes_source: str

    @property
    def memory_bytes(self) -> int:
        """Memory, of which a system that has started leaves programs a little less."""
        return self.gpu.memory_bytes or 0

    @property
    def fastest(self) -> Gpu:
        """Figures that no mode exceeds."""
        return self.super_gpu or self.gpu

    def find_mode(self, name: str, number: int | None, *, is_super: bool) -> PowerMode | None:
        """Find a power mode by what nvpmodel prints of it.

        Args:
            name: Its name, with or without `MODE_`.
            number: Its number; `None` if it was not printed.
            is_super: Whether the board was flashed for the Super modes, as far as that is known: a
                mode of that name and number may be in both sets.

        Returns:
            `None` if the module has none such.
        """
        found = [
            mode
            for mode in self.modes
            if mode.name == name.removeprefix("MODE_") and number in (None, mode.number)
        ]
        return min(found, key=lambda mode: mode.is_super is not is_super, default=None)

    def fastest_mode(self, *, is_super: bool) -> PowerMode:
        """Give the mode with the highest clock of those that a board was flashed for."""
        modes = [mode for mode in self.modes if mode.is_super is is_super]
        return max(modes, key=lambda mode: (mode.gpu_mhz * (mode.sm_count or 1), not mode.watts))


_ORIN_NANO_4 = Gpu(
    "Jetson Orin Nano 4 GB",
    *(87, 4, 0.625, 34.0, 5.0, 10.0, 4 * GIB),
    sources=cited(f"{_NANO}, chapter 2", f"{_SIZES} int8_tops")
    | cited(_HALF_OF_INT8, "fp16_tflops"),
)
_ORIN_NANO_8 = Gpu(
    "Jetson Orin Nano 8 GB",
    *(87, 8, 0.625, 68.0, 10.0, 20.0, 8 * GIB),
    sources=cited(f"{_NANO}, chapter 2", f"{_SIZES} int8_tops")
    | cited(_HALF_OF_INT8, "fp16_tflops"),
)
ORIN_NANO_SUPER = _ORIN_NANO_8.with_figures(
    cited("worked out: a quarter of 67 sparse INT8 TOPS", "fp16_tflops"),
    name="Jetson Orin Nano Super 8 GB",
    clock_ghz=1.02,
    memory_gb_s=102.0,
    fp16_tflops=16.7,
    int8_tops=33.0,
)
_ORIN_NANO_4_SUPER = _ORIN_NANO_4.with_figures(
    cited(f"worked out: 64 bits at 3199 MHz ({_ORIN_GUIDE})", "memory_gb_s"),
    name="Jetson Orin Nano Super 4 GB",
    clock_ghz=1.02,
    memory_gb_s=51.0,
    fp16_tflops=8.5,
    int8_tops=17.0,
)
_ORIN_NX_16 = Gpu(
    "Jetson Orin NX 16 GB",
    *(87, 8, 0.918, 102.0, 15.0, 30.0, 16 * GIB),
    sources=cited(f"{_NX}, tables 2-1 and 2-3, 2.4", _SIZES)
    | cited(f"{_NX}, chapter 2: 50 dense INT8 TOPS, 2 × 10 of them the DLAs'", "int8_tops")
    | cited(_HALF_OF_INT8, "fp16_tflops"),
)
ORIN_NX = _ORIN_NX_16.with_figures(
    cited(_COMPARISON, "int8_tops fp16_tflops"),
    name="Jetson Orin NX Super 16 GB",
    clock_ghz=1.173,
    fp16_tflops=19.0,
    int8_tops=38.0,
)
_ORIN_NX_8 = Gpu(
    "Jetson Orin NX 8 GB",
    *(87, 8, 0.765, 102.0, 12.5, 25.0, 8 * GIB),
    sources=cited(f"{_NX}, tables 2-1 and 2-3, 2.4", _SIZES)
    | cited(f"{_NX}, chapter 2: 35 dense INT8 TOPS, 10 of them the DLA's", "int8_tops")
    | cited(_HALF_OF_INT8, "fp16_tflops"),
)
_ORIN_NX_8_SUPER = ORIN_NX.with_figures(
    {}, name="Jetson Orin NX Super 8 GB", memory_bytes=_ORIN_NX_8.memory_bytes
)
_AGX_ORIN_32 = Gpu(
    "Jetson AGX Orin 32 GB",
    *(87, 14, 0.939, 204.8, 27.0, 54.0, 32 * GIB),
    sources=cited(f"{_AGX}, pp. 7 and 12", f"{_SIZES} int8_tops")
    | cited(_HALF_OF_INT8, "fp16_tflops"),
)
AGX_ORIN = Gpu(
    "Jetson AGX Orin 64 GB",
    *(87, 16, 1.3, 204.8, 42.6, 85.0, 64 * GIB),
    sources=cited(f"{_AGX}, pp. 7 and 12", f"{_SIZES} int8_tops")
    | cited("worked out: 16 SMs, 1.3 GHz, 2048 operations a clock", "fp16_tflops"),
)
_T4000 = Gpu(
    "Jetson Thor T4000",
    *(110, 12, 1.53, 273.0, 150.0, None, 64 * GIB, 300.0, 600.0),
    sources=cited(_THOR_PAGE, "sm_count memory_gb_s memory_bytes")
    | cited(_THOR_GUIDE, "clock_ghz")
    | cited(
        f"{_THOR_PAGE}: 1,200 sparse FP4 TFLOPS, halved for each of dense, FP8 and FP16",
        "fp4_tflops fp8_tflops fp16_tflops",
    ),
)
THOR = Gpu(
    "Jetson Thor T5000",
    *(110, 20, 1.575, 273.0, 258.5, None, 128 * GIB, 517.0, 1035.0),
    sources=cited(_THOR, f"{_SIZES} fp8_tflops fp4_tflops")
    | cited(
        "worked out: half of the FP8 rate, which `mma.sync` alone does not reach", "fp16_tflops"
    ),
)


def _super(
    number: int, name: str, watts: int | None, gpu_mhz: float, memory_mhz: float
) -> PowerMode:
    return PowerMode(number, name, watts, gpu_mhz, memory_mhz, is_super=True)


MODULES = {
    module.name: module
    for module in (
        Module(
            "orin-nano-4gb",
            _ORIN_NANO_4,
            _ORIN_NANO_4_SUPER,
            0,
            _NANO,
            (
                PowerMode(0, "10W", 10, 624.75, 2133),
                PowerMode(1, "7W_AI", 7, 408, 2133),
                PowerMode(2, "7W_CPU", 7, 306, 2133),
                _super(0, "10W", 10, 612, 2133),
                _super(1, "25W", 25, 1020, 3199),
                _super(2, "MAXN_SUPER", None, 1020, 3199),
            ),
            _ORIN_GUIDE,
        ),
        Module(
            "orin-nano-8gb",
            _ORIN_NANO_8,
            ORIN_NANO_SUPER,
            0,
            _NANO,
            (
                PowerMode(0, "15W", 15, 624.75, 2133),
                PowerMode(1, "7W", 7, 408, 2133),
                _super(0, "15W", 15, 612, 2133),
                _super(1, "25W", 25, 918, 3199),
                _super(2, "MAXN_SUPER", None, 1020, 3199),
            ),
            _ORIN_GUIDE,
        ),
        Module(
            "orin-nx-8gb",
            _ORIN_NX_8,
            _ORIN_NX_8_SUPER,
            1,
            f"{_NX}, table 2-3",
            (
                PowerMode(0, "MAXN", None, 765, 3200),
                PowerMode(1, "10W", 10, 612, 2133),
                PowerMode(2, "15W", 15, 612, 3200),
                PowerMode(3, "20W", 20, 408, 3200),
                _super(0, "MAXN_SUPER", None, 1173, 3200),
                _super(4, "40W", 40, 1173, 3200),
            ),
            _ORIN_GUIDE,
        ),
        Module(
            "orin-nx-16gb",
            _ORIN_NX_16,
            ORIN_NX,
            2,
            f"{_NX}, table 2-3",
            (
                PowerMode(0, "MAXN", None, 918, 3200),
                PowerMode(1, "10W", 10, 612, 2133),
                PowerMode(2, "15W", 15, 612, 3200),
                PowerMode(3, "25W", 25, 408, 3200),
                _super(0, "MAXN_SUPER", None, 1173, 3200),
                _super(4, "40W", 40, 1173, 3200),
            ),
            _ORIN_GUIDE,
        ),
        Module(
            "agx-orin-32gb",
            _AGX_ORIN_32,
            None,
            2,
            f"{_AGX}, p. 12",
            (
                PowerMode(0, "MAXN", None, 930.75, 3200),
                PowerMode(1, "15W", 15, 408, 2133),
                PowerMode(2, "30W", 30, 612, 3200),
                PowerMode(3, "40W", 40, 816, 3200),
            ),
            _ORIN_GUIDE,
        ),
        Module(
            "agx-orin-64gb",
            AGX_ORIN,
            None,
            2,
            f"{_AGX}, p. 12",
            (
                PowerMode(0, "MAXN", None, 1301, 3200, 16),
                PowerMode(1, "15W", 15, 408, 2133, 6),
                PowerMode(2, "30W", 30, 612, 3200, 8),
                PowerMode(3, "50W", 50, 816, 3200, 16),
            ),
            _ORIN_GUIDE,
        ),
        Module(
            "thor-t4000",
            _T4000,
            None,
            0,
            "TensorRT 10.10 for DRIVE OS, release properties: Thor has no DLA",
            (
                PowerMode(0, "MAXN", None, 1530, 4266, 12),
                PowerMode(1, "70W", 70, 1530, 4266, 12),
            ),
            _THOR_GUIDE,
        ),
        Module(
            "thor-t5000",
            THOR,
            None,
            0,
            "TensorRT 10.10 for DRIVE OS, release properties: Thor has no DLA",
            (
                PowerMode(0, "MAXN", None, 1575, 4266, 20),
                PowerMode(1, "120W", 120, 1386, 4266, 20),
                PowerMode(2, "90W", 90, 1530, 4266, 12),
                PowerMode(3, "70W", 70, 1530, 4266, 12),
            ),
            f"{_THOR_GUIDE}; MAXN: {_THOR}",
        ),
    )
}
