"""The figures of boards and GPUs against each other and against figures of other documents.

What is compared with here was not read by the code: CUDA cores, widths and data rates of memory,
and rates that NVIDIA prints.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import replace
from pathlib import Path

import pytest

from edgeattn.engine.host import read_text
from edgeattn.plugin.driver import local_architectures, open_driver
from edgeattn.targets import CARDS, MODULES, SMS, Gpu, find_gpu, precisions_of

GIB = 1 << 30
FIGURES = (
    *("sm_count", "clock_ghz", "memory_gb_s", "fp16_tflops", "int8_tops", "memory_bytes"),
    *("fp8_tflops", "fp4_tflops"),
)
GPUS = [gpu for m in MODULES.values() for gpu in (m.gpu, m.super_gpu) if gpu] + list(CARDS)


def spelling(gpu: Gpu) -> str:
    return f"{gpu.name}, {(gpu.memory_bytes or 0) // GIB} GiB"


# Operations of dense FP16 products in a clock, per SM, with FP32 accumulation. A tensor core does
# 256 of A100's; there are four in an SM. Of the cards that do half, NVIDIA's white papers say so.
OPERATIONS = {80: 2048, 86: 1024, 87: 2048, 89: 1024, 90: 4096, 100: 8192, 110: 8192, 120: 1024}
HALVED = ("GeForce", "L40")
# NVIDIA's peaks of these are at a lower clock than the highest.
SLOWER = {"H100 PCIe", "H100 80GB HBM3", "H100 NVL", "H200", "B200"}


# CUDA cores (an SM has 128; of sm_80, 64), width of the memory in bits and its rate in Gbit/s, FP32
# outside of tensor cores in TFLOPS (a core does two operations a clock).
CORES = {
    "Jetson Orin Nano 4 GB": (512, 64, 4.266, None),
    "Jetson Orin Nano Super 4 GB": (512, 64, 6.4, None),
    "Jetson Orin Nano 8 GB": (1024, 128, 4.266, 1.28),
    "Jetson Orin Nano Super 8 GB": (1024, 128, 6.4, 2.08),
    "Jetson Orin NX 8 GB": (1024, 128, 6.4, None),
    "Jetson Orin NX Super 8 GB": (1024, 128, 6.4, 2.4),
    "Jetson Orin NX 16 GB": (1024, 128, 6.4, None),
    "Jetson Orin NX Super 16 GB": (1024, 128, 6.4, 2.4),
    "Jetson AGX Orin 32 GB": (1792, 256, 6.4, 3.365),
    "Jetson AGX Orin 64 GB": (2048, 256, 6.4, 5.32),
    "Jetson Thor T4000": (1536, 256, 8.533, None),
    "Jetson Thor T5000": (2560, 256, 8.533, 8.064),
    "GeForce RTX 3050, 6 GiB": (2304, 96, 14.0, 6.77),
    "GeForce RTX 3050, 8 GiB": (2560, 128, 14.0, 9.1),
    "GeForce RTX 3060, 8 GiB": (3584, 128, 15.0, 12.7),
    "GeForce RTX 3060, 12 GiB": (3584, 192, 15.0, 12.7),
    "GeForce RTX 3080, 10 GiB": (8704, 320, 19.0, 29.8),
    "GeForce RTX 3080, 12 GiB": (8960, 384, 19.0, 30.6),
    "GeForce RTX 3060 Ti": (4864, 256, 14.0, 16.2),
    "GeForce RTX 3070": (5888, 256, 14.0, 20.3),
    "GeForce RTX 3070 Ti": (6144, 256, 19.0, 21.7),
    "GeForce RTX 3080 Ti": (10240, 384, 19.0, 34.1),
    "GeForce RTX 3090": (10496, 384, 19.5, 35.6),
    "GeForce RTX 3090 Ti": (10752, 384, 21.0, 40),
    "GeForce RTX 4060": (3072, 128, 17.0, 15.1),
    "GeForce RTX 4060 Ti": (4352, 128, 18.0, 22.1),
    "GeForce RTX 4070": (5888, 192, 21.0, 29.1),
    "GeForce RTX 4070 SUPER": (7168, 192, 21.0, 35.5),
    "GeForce RTX 4070 Ti": (7680, 192, 21.0, 40.1),
    "GeForce RTX 4070 Ti SUPER": (8448, 256, 21.0, 44.1),
    "GeForce RTX 4080": (9728, 256, 22.4, 48.7),
    "GeForce RTX 4080 SUPER": (10240, 256, 23.0, 52.2),
    "GeForce RTX 4090": (16384, 384, 21.0, 82.6),
    "GeForce RTX 5050": (2560, 128, 20.0, 13.2),
    "GeForce RTX 5060": (3840, 128, 28.0, 19.2),
    "GeForce RTX 5060 Ti": (4608, 128, 28.0, 23.7),
    "GeForce RTX 5070": (6144, 192, 28.0, 30.9),
    "GeForce RTX 5070 Ti": (8960, 256, 28.0, 43.9),
    "GeForce RTX 5080": (10752, 256, 30.0, 56.3),
    "GeForce RTX 5090": (21760, 512, 28.0, 104.8),
    "RTX A2000 12GB": (3328, 192, 12.0, 8.0),
    "RTX A4000": (6144, 256, 14.0, 19.2),
    "RTX A5000": (8192, 384, 16.0, 27.8),
    "RTX A6000": (10752, 384, 16.0, 38.7),
    "RTX 4000 Ada Generation": (6144, 160, 18.0, 26.7),
    "RTX 5000 Ada Generation": (12800, 256, 18.0, 65.3),
    "RTX 6000 Ada Generation": (18176, 384, 20.0, 91.1),
    "RTX PRO 6000 Blackwell Workstation Edition": (24064, 512, 28.0, 126.0),
    "A2": (1280, 128, 12.5, 4.5),
    "A10": (9216, 384, 12.5, 31.2),
    "A30": (3584, 3072, 2.43, 10.3),
    "A40": (10752, 384, 14.5, 37.4),
    "A100-SXM4-40GB": (6912, 5120, 2.43, 19.5),
    "A100-PCIE-40GB": (6912, 5120, 2.43, 19.5),
    "A100-SXM4-80GB": (6912, 5120, 3.186, 19.5),
    "A100 80GB PCIe": (6912, 5120, 3.024, 19.5),
    "L4": (7424, 192, 12.5, 30.3),
    "L40": (18176, 384, 18.0, 90.5),
    "L40S": (18176, 384, 18.0, 91.6),
    "H100 PCIe": (14592, 5120, 3.186, 51.2),
    "H100 80GB HBM3": (16896, 5120, 5.24, 66.9),
    "H100 NVL": (16896, 6016, 5.24, 60.3),
    "H200": (16896, 6144, 6.25, 66.9),
}

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


def faults(gpu: Gpu) -> list[str]:
    """List the figures of a GPU that something speaks against: each other, or another document."""
    return [*faults_of_rates(gpu), *faults_of_sizes(gpu), *faults_of_printed_rates(gpu)]


def faults_of_sizes(gpu: Gpu) -> list[str]:
    """Compare SMs, clock and bandwidth with what cores and memory chips give."""
    if not {gpu.name, spelling(gpu)} & CORES.keys():
        return []
    cores, bits, gigabits, fp32_tflops = CORES.get(gpu.name) or CORES[spelling(gpu)]
    found = []
    if gpu.sm_count != cores // (64 if gpu.architecture == 80 else 128):
        found.append("sm_count")
    if not math.isclose(gpu.memory_gb_s or 0, bits * gigabits / 8, rel_tol=0.01):
        found.append("memory_gb_s")
    clock = (fp32_tflops or 0) * 1e3 / (2 * cores)
    if clock and not math.isclose(gpu.clock_ghz or 0, clock, rel_tol=0.03):
        found.append("clock_ghz")
    return found


def faults_of_printed_rates(gpu: Gpu) -> list[str]:
    """Compare rates with those that NVIDIA prints."""
    fp16, int8 = PRINTED.get(gpu.name, (None, None))
    pairs = {"fp16_tflops": (gpu.fp16_tflops, fp16), "int8_tops": (gpu.int8_tops, int8)}
    return [
        name
        for name, (rate, printed) in pairs.items()
        if printed is not None and not math.isclose(rate or 0, printed, rel_tol=0.01)
    ]


def faults_of_rates(gpu: Gpu) -> list[str]:
    """Compare rates with SMs and clock and with each other, and look for sources."""
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


@pytest.mark.parametrize("gpu", GPUS, ids=spelling)
def test_nothing_speaks_against_a_figure_and_each_has_its_source(gpu: Gpu) -> None:
    assert faults(gpu) == []


def test_planted_wrong_figures_are_found() -> None:
    missed = set()
    for gpu in GPUS:
        for figure in gpu.sources.keys() - {"memory_bytes"}:
            value = getattr(gpu, figure)
            for wrong in (value * 2, value / 2, value * 1.12, value * 0.85):
                wrong = round(wrong) if figure == "sm_count" else wrong
                if wrong != value and not faults(replace(gpu, **{figure: wrong})):
                    missed.add((gpu.name, figure))
    # Nothing else is known of these.
    assert missed == {("A10G", "memory_gb_s"), ("B200", "memory_gb_s")}


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


def test_every_gpu_is_compared_with_its_cores_and_memory_but_these() -> None:
    compared = {spelling(gpu) for gpu in GPUS if {gpu.name, spelling(gpu)} & CORES.keys()}
    assert {spelling(gpu) for gpu in GPUS} - compared == {"A10G, 24 GiB", "B200, 180 GiB"}
    assert len(CORES) == len(compared)  # none that nothing is compared with
    assert {gpu.name for gpu in GPUS} >= PRINTED.keys()


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


# Of cuda.h: CU_DEVICE_ATTRIBUTE_…
CLOCK_RATE, MULTIPROCESSOR_COUNT, MEMORY_CLOCK_RATE, MEMORY_BUS_WIDTH = 13, 16, 36, 37


@pytest.mark.gpu
def test_a_real_gpu_has_the_figures_that_are_found_for_it() -> None:
    driver = open_driver()
    assert driver is not None
    device = driver.integer("cuDeviceGet", 0)
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.call("cuDeviceGetName", name, len(name), device)
    driver.call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    model = read_text(Path("/proc/device-tree/model")) or ""
    gpu = find_gpu(name.value.decode(), local_architectures()[0], model, memory.value)
    if gpu is None or gpu.sm_count is None:
        pytest.skip(f"no figures of {name.value.decode()} are known")

    def ask(attribute: int) -> int:
        return driver.integer("cuDeviceGetAttribute", attribute, device)

    assert gpu.memory_bytes is not None
    assert 0.9 * gpu.memory_bytes < memory.value <= gpu.memory_bytes
    if model:  # a power mode may take SMs away and holds clocks down
        assert ask(MULTIPROCESSOR_COUNT) <= gpu.sm_count
        return
    assert ask(MULTIPROCESSOR_COUNT) == gpu.sm_count
    assert ask(CLOCK_RATE) / 1e6 == pytest.approx(gpu.clock_ghz, rel=0.05)
    gb_s = 2 * ask(MEMORY_CLOCK_RATE) * ask(MEMORY_BUS_WIDTH) / 8 / 1e6
    assert gb_s == pytest.approx(gpu.memory_gb_s, rel=0.03)
