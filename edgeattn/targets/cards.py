"""Desktop and server GPUs, by the names that NVIDIA's driver gives them.

SM counts, boost clocks and bandwidths of cards without a data sheet at hand are TechPowerUp's.
NVIDIA's peaks are the product of these two and of what an SM does in a clock: GeForce cards do half
as many FP16 products with FP32 accumulation as professional cards of the same architecture.
"""

from __future__ import annotations

from edgeattn.targets.architectures import SMS
from edgeattn.targets.gpu import GIB, Gpu, cited

_TECHPOWERUP = "TechPowerUp GPU database (RightNow-AI/RightNow-GPU-Database)"
_SIZES = "sm_count clock_ghz memory_gb_s memory_bytes"
# For each line of cards the white paper that gives the rates of one of them.
_GA102 = "NVIDIA Ampere GA102 white paper v2"
_ADA = "NVIDIA Ada white paper v2.1, appendix A"
_RTX_BLACKWELL = "NVIDIA RTX Blackwell white paper v1.1, appendix A"
_WORKED_OUT = "worked out: SMs, clock and operations a clock, as of the {} in the {}"
_A100 = "NVIDIA A100 white paper, table 4"
_A100_80 = "NVIDIA A100 data sheet (80 GB)"
_H100 = "NVIDIA H100 product page, sparse rates halved"
_H100_CHIP = "NVIDIA H100 white paper, table 3; highest clock: nvidia-smi on the card"
_BLACKWELL = "NVIDIA Blackwell data sheet, HGX B200, sparse rates halved"


def _geforce(
    name: str, number: int, sms: int, mhz: int, memory_gb_s: float, memory_gib: int
) -> Gpu:
    """Describe a GeForce card: half the rate of FP16 with FP32 accumulation."""
    fp16 = sms * mhz * SMS[number].fp16_per_clock / 2 / 1e6
    like = {
        86: ("RTX 3090", _GA102),
        89: ("RTX 4090", _ADA),
        120: ("RTX 5090", _RTX_BLACKWELL),
    }[number]
    has = SMS[number].precisions
    fp8, fp4 = 2 * fp16 if "FP8" in has else None, 8 * fp16 if "FP4" in has else None
    return _card(
        f"GeForce {name}", number, sms, mhz, memory_gb_s, memory_gib,
        (fp16, 4 * fp16, fp8, fp4), _TECHPOWERUP, _WORKED_OUT.format(*like),
    )  # fmt: skip


def _workstation(
    name: str, number: int, sms: int, mhz: int, memory_gb_s: float, memory_gib: int
) -> Gpu:
    """Describe a professional or server card whose rates are worked out."""
    fp16 = sms * mhz * SMS[number].fp16_per_clock / 1e6
    like = {
        80: ("A100", _A100),
        86: ("RTX A6000", _GA102),
        89: ("RTX 6000 Ada", "NVIDIA RTX Blackwell PRO white paper v1.0, table 4"),
    }[number]
    fp8 = 2 * fp16 if "FP8" in SMS[number].precisions else None
    return _card(
        name, number, sms, mhz, memory_gb_s, memory_gib,
        (fp16, 2 * fp16, fp8, None), _TECHPOWERUP, _WORKED_OUT.format(*like),
    )  # fmt: skip


def _card(
    name: str,
    number: int,
    sms: int | None,
    mhz: int | None,
    memory_gb_s: float,
    memory_gib: int,
    rates: tuple[float | None, float | None, float | None, float | None],
    sizes_source: str,
    rates_source: str,
) -> Gpu:
    fp16, int8, fp8, fp4 = (None if rate is None else round(rate, 1) for rate in rates)
    figures = {
        "fp16_tflops": fp16,
        "int8_tops": int8,
        "fp8_tflops": fp8,
        "fp4_tflops": fp4,
    }
    sizes = _SIZES if sms else "memory_gb_s memory_bytes"
    known = " ".join(figure for figure, value in figures.items() if value is not None)
    return Gpu(
        name,
        *(number, sms, mhz / 1e3 if mhz else None, memory_gb_s, fp16, int8),
        *(memory_gib * GIB, fp8, fp4),
        sources=cited(sizes_source, sizes) | cited(rates_source, known),
    )


H200 = _card(
    *("H200", 90, 132, 1980, 4800.0, 141, (989.5, 1979.0, 1979.0, None)),
    f"{_H100_CHIP}; memory: NVIDIA H200 data sheet",
    _H100,
)

_NONE = (None, None, None, None)
CARDS = (
    _geforce("RTX 3050", 86, 18, 1470, 168.0, 6),
    _geforce("RTX 3050", 86, 20, 1777, 224.0, 8),
    _geforce("RTX 3060", 86, 28, 1777, 240.0, 8),
    _geforce("RTX 3060", 86, 28, 1777, 360.0, 12),
    _geforce("RTX 3060 Ti", 86, 38, 1665, 448.0, 8),
    _geforce("RTX 3070", 86, 46, 1725, 448.0, 8),
    _geforce("RTX 3070 Ti", 86, 48, 1770, 608.3, 8),
    _geforce("RTX 3080", 86, 68, 1710, 760.3, 10),
    _geforce("RTX 3080", 86, 70, 1710, 912.4, 12),
    _geforce("RTX 3080 Ti", 86, 80, 1665, 912.4, 12),
    _geforce("RTX 3090", 86, 82, 1695, 936.2, 24),
    _geforce("RTX 3090 Ti", 86, 84, 1860, 1008.0, 24),
    _geforce("RTX 4060", 89, 24, 2460, 272.0, 8),
    _geforce("RTX 4060 Ti", 89, 34, 2535, 288.0, 16),
    _geforce("RTX 4070", 89, 46, 2475, 504.2, 12),
    _geforce("RTX 4070 SUPER", 89, 56, 2475, 504.2, 12),
    _geforce("RTX 4070 Ti", 89, 60, 2610, 504.2, 12),
    _geforce("RTX 4070 Ti SUPER", 89, 66, 2610, 672.3, 16),
    _geforce("RTX 4080", 89, 76, 2505, 716.8, 16),
    _geforce("RTX 4080 SUPER", 89, 80, 2550, 736.3, 16),
    _geforce("RTX 4090", 89, 128, 2520, 1008.0, 24),
    _geforce("RTX 5050", 120, 20, 2572, 320.0, 8),
    _geforce("RTX 5060", 120, 30, 2497, 448.0, 8),
    _geforce("RTX 5060 Ti", 120, 36, 2572, 448.0, 16),
    _geforce("RTX 5070", 120, 48, 2512, 672.0, 12),
    _geforce("RTX 5070 Ti", 120, 70, 2452, 896.0, 16),
    _geforce("RTX 5080", 120, 84, 2617, 960.0, 16),
    _geforce("RTX 5090", 120, 170, 2407, 1792.0, 32),
    _workstation("RTX A2000 12GB", 86, 26, 1200, 288.0, 12),
    _workstation("RTX A4000", 86, 48, 1560, 448.0, 16),
    _workstation("RTX A5000", 86, 64, 1695, 768.0, 24),
    _workstation("RTX A6000", 86, 84, 1800, 768.0, 48),
    _workstation("RTX 4000 Ada Generation", 89, 48, 2175, 360.0, 20),
    _workstation("RTX 5000 Ada Generation", 89, 100, 2550, 576.0, 32),
    _workstation("RTX 6000 Ada Generation", 89, 142, 2505, 960.0, 48),
    _card(
        *("RTX PRO 6000 Blackwell Workstation Edition", 120, 188, 2617, 1792.0, 96),
        (503.8, None, None, None),
        _TECHPOWERUP,
        "NVIDIA RTX Blackwell PRO white paper v1.0, table 4",
    ),
    _workstation("A2", 86, 10, 1770, 200.1, 16),
    _card(
        *("A10", 86, 72, 1695, 600.2, 24, (125.0, 250.0, None, None)),
        _TECHPOWERUP,
        "NVIDIA A10 data sheet",
    ),
    # Sources disagree on its SMs and rates.
    _card("A10G", 86, None, None, 600.2, 24, _NONE, _TECHPOWERUP, ""),
    _workstation("A30", 80, 56, 1440, 933.1, 24),
    _card(
        *("A40", 86, 84, 1740, 695.8, 48, (149.7, 299.3, None, None)),
        _TECHPOWERUP,
        "NVIDIA A40 data sheet",
    ),
    _card(*("A100-SXM4-40GB", 80, 108, 1410, 1555.0, 40, (312.0, 624.0, None, None)), _A100, _A100),
    _card(*("A100-PCIE-40GB", 80, 108, 1410, 1555.0, 40, (312.0, 624.0, None, None)), _A100, _A100),
    _card(
        *("A100-SXM4-80GB", 80, 108, 1410, 2039.0, 80, (312.0, 624.0, None, None)),
        *(_A100_80, _A100_80),
    ),
    _card(
        *("A100 80GB PCIe", 80, 108, 1410, 1940.0, 80, (312.0, 624.0, None, None)),
        *(_TECHPOWERUP, _A100_80),
    ),
    _card(
        *("L4", 89, 58, 2040, 300.1, 24, (121.0, 242.0, 242.0, None)),
        f"{_TECHPOWERUP}; SMs: deviceQuery on the card",
        "NVIDIA L4 data sheet, sparse rates halved",
    ),
    _card(
        *("L40", 89, 142, 2490, 864.0, 48, (181.0, 362.0, 362.0, None)),
        _TECHPOWERUP,
        "NVIDIA L40 data sheet",
    ),
    _card(
        *("L40S", 89, 142, 2520, 864.0, 48, (362.0, 733.0, 733.0, None)),
        _TECHPOWERUP,
        "NVIDIA L40S data sheet",
    ),
    _card(
        *("H100 PCIe", 90, 114, 1755, 2040.0, 80, (756.5, 1513.0, 1513.0, None)),
        *(_TECHPOWERUP, "NVIDIA H100 data sheet, sparse rates halved"),
    ),
    _card(
        *("H100 80GB HBM3", 90, 132, 1980, 3350.0, 80, (989.5, 1979.0, 1979.0, None)),
        f"{_H100_CHIP}; memory: NVIDIA H100 product page",
        _H100,
    ),
    _card(
        *("H100 NVL", 90, 132, 1785, 3940.0, 94, (835.5, 1671.0, 1671.0, None)),
        *(_TECHPOWERUP, "NVIDIA H100 data sheet, sparse rates halved"),
    ),
    H200,
    _card(
        *("B200", 100, 148, 1965, 7700.0, 180, (2250.0, None, 4500.0, 9000.0)),
        f"{_TECHPOWERUP}; memory: {_BLACKWELL}",
        _BLACKWELL,
    ),
)


def find_card(name: str, architecture: int, memory_bytes: int | None = None) -> Gpu | None:
    """Find a card.

    Args:
        name: As the driver calls it, such as `NVIDIA GeForce RTX 4090`.
        architecture: SM number.
        memory_bytes: Its memory, where cards of one name differ by it.

    Returns:
        `None` if no figures of it are known: of a laptop's GPU or of a part of one (MIG), too.
    """
    wanted = name.removeprefix("NVIDIA ")
    found = [gpu for gpu in CARDS if (gpu.name, gpu.architecture) == (wanted, architecture)]
    return _with_memory(found, memory_bytes)


def _with_memory(gpus: list[Gpu], memory_bytes: int | None) -> Gpu | None:
    """Choose by memory, of which a driver or a system tells a little less than there is.

    Args:
        gpus: To choose from.
        memory_bytes: What was told; the largest is chosen where it was not.

    Returns:
        The smallest that has as much, else the largest; `None` if there is nothing to choose from.
    """
    gpus = sorted(gpus, key=lambda gpu: gpu.memory_bytes or 0)
    fitting = [gpu for gpu in gpus if memory_bytes and memory_bytes <= (gpu.memory_bytes or 0)]
    return next(iter(fitting or gpus[-1:]), None)
