"""Reports to make pages of. The figures are made up, the forms are those of the real reports.

Nothing here was measured: a board throttles where a page has to show it, an attention falls apart
where its reasons have to be read.
"""

from __future__ import annotations

import math
import random
from typing import Any

from edgeattn.artifacts import Manifest, Parent
from edgeattn.profiling.board.energy import EnergyPerQuery
from edgeattn.profiling.board.sample import BoardSample, BoardTrace
from edgeattn.profiling.board.verdict import Verdict
from edgeattn.profiling.environment import Environment
from edgeattn.profiling.layers.rows import LayerProfile, LayerRow, module_tree
from edgeattn.profiling.stats import LatencyStats
from tests.edgeattn.profiling.page.long_runs import repeated_builds, sustained_run

START_NS = 5_000_000_000_000
GB_S = 68.0
PEAK_GFLOP_S = {"int8": 40_000.0, "float16": 20_000.0}


def latency_report(count: int = 3000, seed: int = 7, engine: str = "net.engine") -> dict[str, Any]:
    """Make up a report of a device with copies: a narrow peak, a slope, a few late queries."""
    draw = random.Random(seed)
    queries: list[dict[str, float]] = []
    now = 0.0
    for i in range(count):
        h2d = 0.21 + draw.gauss(0, 0.004)
        late = draw.expovariate(0.8) if draw.random() < 0.015 else 0.0
        compute = 4.1 + 0.35 * (i > 0.62 * count) + abs(draw.gauss(0, 0.035)) + late
        d2h = 0.018 + abs(draw.gauss(0, 0.001))
        ends = (now, now + h2d, now + h2d + compute, now + h2d + compute + d2h)
        queries.append(
            {
                "startEnqMs": now,
                "endEnqMs": now + 0.35,
                "startH2dMs": ends[0],
                "endH2dMs": ends[1],
                "startComputeMs": ends[1],
                "endComputeMs": ends[2],
                "startD2hMs": ends[2],
                "endD2hMs": ends[3],
                "h2dMs": h2d,
                "computeMs": compute,
                "d2hMs": d2h,
                "latencyMs": h2d + compute + d2h,
            }
        )
        now = ends[3] + 0.02
    part_keys = {"latency": "latencyMs", "h2d": "h2dMs", "compute": "computeMs", "d2h": "d2hMs"}
    parts = {part: [query[key] for query in queries] for part, key in part_keys.items()}
    parts["enqueue"] = [query["endEnqMs"] - query["startEnqMs"] for query in queries]
    environment = _environment().to_dict()
    stats = {part: LatencyStats.from_samples(times) for part, times in parts.items()}
    spread = stats["latency"].cv_percent
    manifest = Manifest(
        "report",
        {"engine": Parent(engine, "5d" * 32)},
        target="tensorrt",
        options={"iterations": 10, "duration_s": 15.0, "warm_up_ms": 200.0},
    )
    return {
        "manifest": manifest.to_dict(),
        "mode": "device: one query at a time, host-to-device copy, compute, device-to-host copy",
        "settings": {"engine": "tensorrt", "cuda_graph": True, "pinned": True, "stream": "own"},
        "inputs": {"input": [1, 3, 224, 224]},
        **{part: each.to_dict() for part, each in stats.items()},
        "throughput_qps": count / (now / 1e3),
        "environment": environment,
        "environment_after": environment,
        "warnings": [f"the latency varies: its coefficient of variation is {spread:.1f} %"],
        "exportTimes": queries,
    }


def full_report(count: int = 3000) -> dict[str, Any]:
    """Make up a report with everything that a page can show."""
    report = latency_report(count, engine="made-up-numbers.engine")
    end_ns = START_NS + int(report["exportTimes"][-1]["endD2hMs"] * 1e6)
    energy = EnergyPerQuery(
        mj=31.84,
        std_error_mj=0.41,
        gross_mj=52.1,
        idle_mw=4630.0,
        busy_mw=11890.0,
        rail="VDD_IN",
        method="trapezoid rule over sysfs samples of VDD_IN, less the mean power at rest",
        samples=1402,
        window_s=(end_ns - START_NS) / 1e9,
    )
    return report | {
        "layers": layer_profile() | {"roofs": {"gb_s": GB_S, "gflop_s": PEAK_GFLOP_S}},
        "board": board_trace(end_ns).to_dict(),
        "energy": energy.to_dict(),
        "verdict": Verdict("throttled", ("over-current, seen 9 times in 1402 samples",)).to_dict(),
        "sustained": sustained_run(),
        "builds": repeated_builds(),
        "build_report": build_report(),
        "window_ns": [START_NS, end_ns],
    }


def layer_profile() -> dict[str, Any]:
    """Make up the layers of a model with four stages, windows of two sizes in each attention."""
    draw = random.Random(3)
    rows: list[LayerRow] = []

    def add(path: tuple[str, ...], kind: str, ms: float, intensity: float, dtype: str) -> None:
        ms *= draw.uniform(0.85, 1.2)
        peak = PEAK_GFLOP_S[dtype]
        reached = draw.uniform(0.25, 0.8)
        rate = reached * min(peak, intensity * GB_S)
        name = "/".join((*path, f"{kind}_{len(rows)}"))
        flops = rate * ms * 1e6
        rows.append(
            LayerRow(
                name=name,
                kind=kind,
                module=path,
                ms=ms,
                median_ms=ms,
                mean_ms=1.02 * ms,
                share=0.0,
                nodes=(name,),
                precision=dtype,
                bytes=round(flops / intensity),
                flops=round(flops),
                gb_s=rate / intensity,
                gflop_s=rate,
                ceiling_share=reached,
                bound="memory" if intensity * GB_S < peak else "compute",
            )
        )

    add(("patch_embed",), "Conv", 0.16, 18, "float16")
    for stage, blocks in enumerate((2, 2, 6, 2)):
        for block in range(blocks):
            path = (f"stages.{stage}", f"blocks.{block}")
            add((*path, "norm1"), "Norm", 0.02, 0.6, "float16")
            for group in range(2):
                attention = (*path, "attention", f"group {group}")
                add(attention, "Plugin", 0.035 + 0.02 * (3 - stage), 30 + 40 * group, "float16")
            add((*path, "attention"), "Gemm", 0.05, 90 + 60 * stage, "int8")
            add((*path, "mlp"), "Gemm", 0.09, 200 + 260 * stage, "int8")
            add((*path, "mlp"), "Gelu", 0.015, 1.1, "float16")
        if stage < 3:
            add((f"stages.{stage}", "downsample"), "Gemm", 0.05, 60, "int8")
    add(("head",), "Gemm", 0.04, 1.9, "float16")
    whole = 1.03 * math.fsum(row.ms for row in rows)
    shared = [LayerRow(**{**vars(row), "share": row.ms / whole}) for row in rows]
    notes = {row.module[:3]: "windows 4, 8" for row in rows if "attention" in row.module}
    notes |= {
        r.module: f"window {4 + 4 * int(r.module[-1][-1])}" for r in rows if len(r.module) > 3
    }
    return LayerProfile(
        tuple(shared),
        module_tree(shared, notes),
        math.fsum(row.ms for row in rows),
        whole,
        400,
        "Made up for this page.",
        f"made-up board: {GB_S:g} GB/s",
    ).to_dict()


def board_trace(end_ns: int) -> BoardTrace:
    """Make up a Jetson that warms up, draws too much current and slows down."""
    draw = random.Random(11)
    period_ns = 20_000_000
    samples = []
    time = START_NS - 900_000_000
    while time < end_ns + 600_000_000:
        done = (time - START_NS) / (end_ns - START_NS)
        busy = 0 <= done <= 1
        slow = busy and done > 0.62
        samples.append(
            BoardSample(
                time,
                clocks_mhz={
                    "gpu": 765.0 if slow else 1020.0 if busy else 306.0,
                    "emc": 2133.0 if busy else 665.6,
                    **{f"cpu{i}": draw.choice((729.6, 1113.6, 1510.4)) for i in range(6)},
                },
                temperatures_c={
                    "gpu": 47 + 17 * max(0, min(done, 1)) + draw.gauss(0, 0.12),
                    "cpu": 46 + 11 * max(0, min(done, 1)) + draw.gauss(0, 0.12),
                    "tj": 48 + 18 * max(0, min(done, 1)) + draw.gauss(0, 0.12),
                },
                power_mw={
                    "VDD_IN": (11900 if busy else 4600) + draw.gauss(0, 260),
                    "VDD_CPU_GPU_CV": (6900 if busy else 900) + draw.gauss(0, 190),
                    "VDD_SOC": (2500 if busy else 1400) + draw.gauss(0, 60),
                },
                utilisation_percent={"gpu": 97.0 if busy else 2.0, "cpu": draw.uniform(8, 21)},
                memory_used_bytes=3_100_000_000,
                throttled=("over-current",) if slow and draw.random() < 0.035 else (),
            )
        )
        time += period_ns
    return BoardTrace(
        tuple(samples),
        "sysfs",
        period_ns / 1e9,
        "Made-up board of the shape of an Orin Nano",
        "15W",
        False,
        "VDD_IN",
    )


def build_report() -> dict[str, Any]:
    """Make up what `make_build_report` gives, with one attention that fell apart."""
    attention = [
        {
            "name": f"stages.{stage}.blocks.0.attention",
            "verdict": "plugin",
            "layers": [f"MultiScaleWindowAttention_{stage}"],
            "dtype": "float16",
            "reasons": [],
            "notes": [],
        }
        for stage in range(3)
    ]
    attention.append(
        {
            "name": "stages.3.blocks.1.attention",
            "verdict": "unfused",
            "layers": ["MatMul_231", "Softmax_232", "MatMul_236"],
            "dtype": "float32",
            "reasons": ["its products and its softmax are in 3 layers"],
            "notes": [],
        }
    )
    changed = {
        "node": "stages.3.blocks.1.attention/MatMul_231",
        "asked": "float16",
        "got": "float32",
        "layers": ["MatMul_231"],
    }
    return {
        "tensorrt": "10.3.0",
        "asked": "int8+fp16",
        "attention_way": "plugin",
        "attention": attention,
        "precision": {
            "layers": 96,
            "compute": {"int8": 38, "float16": 41, "float32": 3},
            "products": {"int8": 38, "float16": 12, "float32": 2},
            "reformats": 4,
            "reformat_bytes": 2_408_448,
            "moves": 3,
            "move_bytes": 903_168,
            "quantize_layers": 2,
            "asked": {"int8": 38, "float16": 14},
            "changed": [changed],
            "unproven": [],
        },
        "inspector": {"schema": "10", "verbosity": "detailed", "fault": ""},
        "device_memory_bytes": 18_874_368,
        "plan_bytes": 31_457_280,
        "seconds": 184.2,
        "profiles": [],
        "timing_cache": {},
        "plugin_libraries": ["libedgeattn_plugin.so"],
        "faults": [],
        "warnings": [],
        "warning_count": 0,
    }


def _environment() -> Environment:
    return Environment(
        machine="Made-up board of the shape of an Orin Nano",
        cpu_model="ARMv8 Processor rev 1 (v8l)",
        cpu_features=("asimd", "asimddp", "fphp"),
        cpu_architecture="aarch64",
        logical_cores=6,
        usable_cores=6,
        governor="schedutil",
        clock_mhz=(729.6, 1510.4),
        max_clock_mhz=1510.4,
        load_average=0.61,
        memory_total_bytes=7_990_000_000,
        memory_available_bytes=4_800_000_000,
        operating_system="Ubuntu 22.04.4 LTS",
        kernel="5.15.148-tegra",
    )
