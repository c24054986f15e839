"""A sustained run and repeated builds to make pages of: figures made up, forms as they are."""

from __future__ import annotations

import random
from typing import Any

from edgeattn.profiling.board.sample import BoardTrace
from edgeattn.profiling.kernel_changes import KernelChange
from edgeattn.profiling.repeated_builds import BuildRow, Confirmation, RepeatedBuilds
from edgeattn.profiling.stats import LatencyStats
from edgeattn.profiling.sustained import Minute, Sustained


def sustained_run(count: int = 12) -> dict[str, Any]:
    """Make up a board that warms up for minutes, and is held down while it is above 85 °C.

    The last of so many minutes is half a one.
    """
    draw = random.Random(5)
    minutes = []
    for number in range(count):
        celsius = 88 - 40 * 0.75**number
        is_held = celsius > 85
        p50 = (5.31 if is_held else 4.18) + draw.uniform(-0.02, 0.02)
        length_s = 30.0 if number == count - 1 else 60.0
        minutes.append(
            Minute(
                start_s=60.04 * number,
                end_s=60.04 * number + length_s,
                num_samples=round(1000 * length_s / p50),
                p50_ms=p50,
                p99_ms=p50 + draw.uniform(0.3, 0.6),
                max_ms=p50 + draw.uniform(2, 9),
                throughput_qps=1000 / p50,
                clock_mhz=draw.uniform(760, 790) if is_held else 1020.0,
                temperature_c=celsius,
                power_mw=(9100 if is_held else 11900) + draw.gauss(0, 60),
                verdict="throttled" if is_held else "stable",
            )
        )
    drift = 100 * (minutes[-2].p50_ms / minutes[0].p50_ms - 1) if count > 2 else None
    trace = BoardTrace((), "sysfs", 0.5, "Made-up board", "15W", False, "VDD_IN")
    return Sustained(tuple(minutes), trace, drift).to_dict()


def repeated_builds(count: int = 5) -> dict[str, Any]:
    """Make up an engine and so many builds of it, of which the third is the fastest."""
    draw = random.Random(9)
    medians = [4.52, 4.528, *(4.41 + 0.06 * abs(number - 3) for number in range(1, count + 1))]
    rows = []
    for place, median in enumerate(medians):
        number = max(place - 1, 0)
        latency = LatencyStats.from_samples([draw.gauss(median, 0.04) for _ in range(700)])
        ratio = latency.p50_ms / (rows[0].latency.p50_ms if rows else latency.p50_ms)
        rows.append(
            BuildRow(
                role="build" if number else ("again" if place else "present"),
                number=number,
                sha256=f"{0 if place == 1 else place:x}f" * 32,
                bytes=31_457_280 + 4096 * number,
                latency=latency,
                ratio=ratio,
                ratio_interval=(ratio - 0.002, ratio + 0.002) if place else None,
                kept=number == min(3, count),
                build_seconds=184.2 + number if number else None,
                layers=96 - number % 2,
                differing=3 * number,
                differences=tuple(
                    KernelChange(
                        f"/stages.{layer}/blocks.0/mlp/fc1/MatMul",
                        "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize128x64x64_stage3",
                        "sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize64x64x64_stage5",
                    )
                    for layer in range(number % 4)
                ),
            )
        )
    return RepeatedBuilds(
        target="tensorrt",
        mode="device: host-to-device copy, compute and device-to-host copy",
        inputs={"input": (1, 3, 224, 224)},
        rows=tuple(rows),
        spread_percent=2.7,
        noise_percent=0.18,
        identical=False,
        confirmed=Confirmation(0.977, (0.974, 0.980)),
        sentences=(
            f"The medians of {count} builds and of the engine that was there spread over 2.70 %; "
            "the same engine loaded twice differs by 0.18 %.",
            "Build 3 took the place of the engine that was there: measured once more, its median "
            "is 0.977 times as long (0.974 to 0.980).",
        ),
    ).to_dict()
