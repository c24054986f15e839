"""The figures of boards and GPUs against each other and against figures of other documents.

What is compared with here was not read by the code: CUDA cores, widths and data rates of memory,
and rates that NVIDIA prints.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from edgeattn.targets import CARDS, MODULES, SMS, Gpu, precisions_of

GIB = 1 << 30
FIGURES = (
    *("sm_count", "clock_ghz", "memory_gb_s", "fp16_tflops", "int8_tops", "memory_bytes"),
    *("fp8_tflops", "fp4_tflops"),
)
GPUS = [gpu for m in MODULES.values() for gpu in (m.gpu, m.super_gpu) if gpu] + list(CARDS)
IDS = [f"{gpu.name}, {(gpu.memory_bytes or 0) // GIB} GiB" for gpu in GPUS]

# Operations of dense FP16 products in a clock, per SM, with FP32 accumulation. A tensor core does
# 256 of A100's; there are four in an SM. Of the cards that do half, NVIDIA's white papers say so.
OPERATIONS = {80: 2048, 86: 1024, 87: 2048, 89: 1024, 90: 4096, 100: 8192, 110: 8192, 120: 1024}
HALVED = ("GeForce", "L40")
# NVIDIA's peaks of these are at a lower clock than the highest.
SLOWER = {"H100 PCIe", "H100 80GB HBM3", "H100 NVL", "H200", "B200"}


def faults(gpu: Gpu) -> list[str]:
    """List the figures of a GPU that do not follow from each other or have no source."""
    found = []
    known = {name for name in FIGURES if getattr(gpu, name) is not None}
    if known != gpu.sources.keys() or not all(gpu.sources.values()):
        found.append("sources")
    if gpu.sm_count and gpu.clock_ghz and gpu.fp16_tflops:
        is_halved = gpu.name.split()[0] in HALVED
        full = gpu.sm_count * gpu.clock_ghz * OPERATIONS[gpu.architecture] / 1e3
        ratio = gpu.fp16_tflops / (full / 2 if is_halved else full)
        least = 0.86 if gpu.name in SLOWER else 0.97
        if not least <= ratio <= 1.02:  # 17 and 33 TOPS are rounded
            found.append("fp16_tflops")
        times = {"int8_tops": (2, 4), "fp8_tflops": (2, 2), "fp4_tflops": (4, 8)}
        for name, (whole, halved) in times.items():
            rate = getattr(gpu, name)
            expected = gpu.fp16_tflops * (halved if is_halved else whole)
            if gpu.name == "L40":  # whose INT8 is halved, too
                expected = 2 * gpu.fp16_tflops
            if rate is not None and not math.isclose(rate, expected, rel_tol=0.03):
                found.append(name)
    if (gpu.fp8_tflops is not None) and "FP8" not in SMS[gpu.architecture].precisions:
        found.append("fp8_tflops")
    if (gpu.fp4_tflops is not None) and "FP4" not in SMS[gpu.architecture].precisions:
        found.append("fp4_tflops")
    return found


@pytest.mark.parametrize("gpu", GPUS, ids=IDS)
def test_rates_follow_from_sms_and_clock_and_every_figure_has_its_source(gpu: Gpu) -> None:
    assert faults(gpu) == []


@pytest.mark.parametrize(
    ("figure", "change"),
    [
        ("sm_count", lambda n: n + n // 8 + 1),
        ("clock_ghz", lambda ghz: ghz * 1.1),
        ("clock_ghz", lambda ghz: ghz * 1e3),
        ("fp16_tflops", lambda rate: 2 * rate),  # a sparse rate
        ("fp16_tflops", lambda rate: rate / 2),
        ("int8_tops", lambda rate: 2 * rate),
        ("int8_tops", lambda rate: rate * 1.05),
    ],
)
@pytest.mark.parametrize("name", ["Jetson AGX Orin 64 GB", "GeForce RTX 3060", "A40"])
def test_a_wrong_figure_is_found(name, figure, change) -> None:
    gpu = next(gpu for gpu in GPUS if gpu.name == name)
    assert faults(replace(gpu, **{figure: change(getattr(gpu, figure))}))


def test_a_figure_without_a_source_is_found() -> None:
    for gpu in GPUS:
        for figure in gpu.sources:
            assert "sources" in faults(replace(gpu, **{figure: None}))
            fewer = {name: text for name, text in gpu.sources.items() if name != figure}
            assert "sources" in faults(replace(gpu, sources=fewer))


def test_the_operations_of_an_sm_are_these() -> None:
    assert {number: sm.fp16_per_clock for number, sm in SMS.items()} == OPERATIONS


@pytest.mark.parametrize(
    ("number", "types"),
    [
        (61, ""),
        (75, "FP16 INT8"),
        (80, "FP16 INT8 TF32 BF16"),
        (87, "FP16 INT8 TF32 BF16"),
        (89, "FP16 INT8 TF32 BF16 FP8"),
        (90, "FP16 INT8 TF32 BF16 FP8"),
        (103, "FP16 INT8 TF32 BF16 FP8 FP4"),
        (110, "FP16 INT8 TF32 BF16 FP8 FP4"),
        (121, "FP16 INT8 TF32 BF16 FP8 FP4"),
    ],
)
def test_types_come_with_the_generations_of_tensor_cores(number: int, types: str) -> None:
    assert " ".join(precisions_of(number)) == types
    assert number not in SMS or SMS[number].precisions == precisions_of(number)


def test_what_ctas_share_is_as_in_cudas_own_table() -> None:
    kib = {80: 164, 86: 100, 87: 164, 89: 100, 90: 228, 100: 228, 110: 228, 120: 100}
    assert {number: sm.shared_bytes // 1024 for number, sm in SMS.items()} == kib


# CUDA cores (an SM has 128; of sm_80, 64), width of the memory in bits, and its rate in Gbit/s.
CORES = {
    "Jetson Orin Nano 4 GB": (512, 64, 4.266),
    "Jetson Orin Nano Super 4 GB": (512, 64, 6.4),
    "Jetson Orin Nano 8 GB": (1024, 128, 4.266),
    "Jetson Orin Nano Super 8 GB": (1024, 128, 6.4),
    "Jetson Orin NX 8 GB": (1024, 128, 6.4),
    "Jetson Orin NX Super 16 GB": (1024, 128, 6.4),
    "Jetson AGX Orin 32 GB": (1792, 256, 6.4),
    "Jetson AGX Orin 64 GB": (2048, 256, 6.4),
    "Jetson Thor T4000": (1536, 256, 8.533),
    "Jetson Thor T5000": (2560, 256, 8.533),
    "GeForce RTX 3060 Ti": (4864, 256, 14.0),
    "GeForce RTX 3070": (5888, 256, 14.0),
    "GeForce RTX 3070 Ti": (6144, 256, 19.0),
    "GeForce RTX 3080 Ti": (10240, 384, 19.0),
    "GeForce RTX 3090": (10496, 384, 19.5),
    "GeForce RTX 3090 Ti": (10752, 384, 21.0),
    "GeForce RTX 4060": (3072, 128, 17.0),
    "GeForce RTX 4060 Ti": (4352, 128, 18.0),
    "GeForce RTX 4070": (5888, 192, 21.0),
    "GeForce RTX 4070 SUPER": (7168, 192, 21.0),
    "GeForce RTX 4070 Ti": (7680, 192, 21.0),
    "GeForce RTX 4070 Ti SUPER": (8448, 256, 21.0),
    "GeForce RTX 4080": (9728, 256, 22.4),
    "GeForce RTX 4080 SUPER": (10240, 256, 23.0),
    "GeForce RTX 4090": (16384, 384, 21.0),
    "GeForce RTX 5050": (2560, 128, 20.0),
    "GeForce RTX 5060": (3840, 128, 28.0),
    "GeForce RTX 5060 Ti": (4608, 128, 28.0),
    "GeForce RTX 5070": (6144, 192, 28.0),
    "GeForce RTX 5070 Ti": (8960, 256, 28.0),
    "GeForce RTX 5080": (10752, 256, 30.0),
    "GeForce RTX 5090": (21760, 512, 28.0),
    "RTX A2000 12GB": (3328, 192, 12.0),
    "RTX A4000": (6144, 256, 14.0),
    "RTX A5000": (8192, 384, 16.0),
    "RTX A6000": (10752, 384, 16.0),
    "RTX 4000 Ada Generation": (6144, 160, 18.0),
    "RTX 5000 Ada Generation": (12800, 256, 18.0),
    "RTX 6000 Ada Generation": (18176, 384, 20.0),
    "RTX PRO 6000 Blackwell Workstation Edition": (24064, 512, 28.0),
    "A2": (1280, 128, 12.5),
    "A10": (9216, 384, 12.5),
    "A30": (3584, 3072, 2.43),
    "A40": (10752, 384, 14.5),
    "A100-SXM4-40GB": (6912, 5120, 2.43),
    "A100-PCIE-40GB": (6912, 5120, 2.43),
    "A100-SXM4-80GB": (6912, 5120, 3.186),
    "A100 80GB PCIe": (6912, 5120, 3.024),
    "L4": (7424, 192, 12.5),
    "L40": (18176, 384, 18.0),
    "L40S": (18176, 384, 18.0),
    "H100 PCIe": (14592, 5120, 3.186),
    "H100 80GB HBM3": (16896, 5120, 5.24),
}


@pytest.mark.parametrize("name", CORES)
def test_sms_and_bandwidth_are_what_cores_and_memory_chips_give(name: str) -> None:
    cores, bits, gigabits = CORES[name]
    gpu = next(gpu for gpu in GPUS if gpu.name == name)
    assert gpu.sm_count == cores // (64 if gpu.architecture == 80 else 128)
    assert gpu.memory_gb_s == pytest.approx(bits * gigabits / 8, rel=0.01)


# As NVIDIA prints them, dense: FP16 with FP32 accumulation, INT8.
PRINTED = {
    "GeForce RTX 3090": (71.0, 284.0),  # GA102 white paper, table 9
    "GeForce RTX 4090": (165.2, 660.6),  # Ada white paper, appendix A
    "GeForce RTX 5080": (112.6, None),  # RTX Blackwell white paper
    "GeForce RTX 5090": (209.5, 838.0),
    "RTX A6000": (154.8, 309.7),  # GA102 white paper, table 3
    "RTX 6000 Ada Generation": (364.0, None),  # RTX Blackwell PRO white paper, table 4
    "Jetson AGX Orin 64 GB": (43.0, 85.0),  # comparison of Jetson modules
    "Jetson Orin NX Super 16 GB": (19.0, 38.0),
}


@pytest.mark.parametrize("name", PRINTED)
def test_rates_are_those_that_nvidia_prints(name: str) -> None:
    fp16, int8 = PRINTED[name]
    gpu = next(gpu for gpu in GPUS if gpu.name == name)
    assert gpu.fp16_tflops == pytest.approx(fp16, rel=0.01)
    assert int8 is None or gpu.int8_tops == pytest.approx(int8, rel=0.01)


@pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name)
def test_power_modes_stay_within_the_module(module) -> None:
    assert module.modes_source
    assert module.dla_source
    assert len({mode.sm_count is None for mode in module.modes}) == 1  # speeds can be compared
    for is_super in (False, True):
        modes = [mode for mode in module.modes if mode.is_super is is_super]
        numbers = [mode.number for mode in modes]
        assert len(numbers) == len(set(numbers))
        gpu = module.fastest if is_super else module.gpu
        if modes:
            fastest = max(mode.gpu_mhz for mode in modes)
            # AGX Orin 32 GB: 939 MHz in the data sheet, 930.75 in the guide.
            assert fastest == pytest.approx(gpu.clock_ghz * 1e3, rel=0.01)
            assert all(mode.sm_count is None or mode.sm_count <= gpu.sm_count for mode in modes)
            named = [mode for mode in modes if mode.watts is not None]
            assert all(mode.name.startswith(f"{mode.watts}W") for mode in named)
    assert any(mode.is_super for mode in module.modes) is (module.super_gpu is not None)


def test_a_super_module_is_the_same_module_at_a_higher_clock() -> None:
    supers = [module for module in MODULES.values() if module.super_gpu]
    assert [module.name for module in supers] == [
        *("orin-nano-4gb", "orin-nano-8gb", "orin-nx-8gb", "orin-nx-16gb")
    ]
    for module in supers:
        assert module.super_gpu.sm_count == module.gpu.sm_count
        assert module.super_gpu.memory_bytes == module.gpu.memory_bytes
        assert module.super_gpu.clock_ghz > module.gpu.clock_ghz
        assert module.fastest is module.super_gpu
