"""When a measurement may be believed."""

from __future__ import annotations

import pytest

from edgeattn.profiling.board.sample import BoardSample, BoardTrace
from edgeattn.profiling.board.verdict import verdict

MS = 10**6


def gpu(
    clocks: list[float], *, locked: bool | None = False, **by_index: tuple[str, ...]
) -> BoardTrace:
    samples = tuple(
        BoardSample(i * 10 * MS, {"gpu": mhz, "cpu0": 729.0}, throttled=by_index.get(f"at{i}", ()))
        for i, mhz in enumerate(clocks)
    )
    return BoardTrace(samples, "sysfs", 0.01, jetson_clocks=locked)


def test_a_clock_that_stays_is_stable() -> None:
    found = verdict(gpu([1020.0] * 40), 0, 390 * MS)
    assert (found.word, found.reasons) == ("stable", ("the GPU's clock stayed at 1020 MHz",))


def test_small_moves_and_a_single_outlier_do_not_count() -> None:
    assert verdict(gpu([1020.0, 1000.0] * 20), 0, 390 * MS).word == "stable"
    assert verdict(gpu([1020.0] * 39 + [306.0]), 0, 390 * MS).word == "stable"


def test_a_clock_that_the_governor_moves_is_not_known_to_be_stable() -> None:
    found = verdict(gpu([306.0] * 10 + [1020.0] * 30), 0, 390 * MS)
    assert found.word == "unknown"
    assert found.reasons == (
        "the GPU's clock moved between 306 and 1020 MHz by itself: it is not locked",
    )


def test_a_locked_clock_that_falls_was_throttled() -> None:
    found = verdict(gpu([1020.0] * 30 + [800.0] * 10, locked=True), 0, 390 * MS)
    assert found.word == "throttled"
    assert "although it is locked" in found.reasons[0]


def test_an_event_within_the_window_is_throttling_whatever_the_clock_says() -> None:
    trace = gpu([1020.0] * 40, at7=("over-current",), at9=("over-current", "thermal"))
    found = verdict(trace, 0, 390 * MS)
    assert found.word == "throttled"
    assert found.reasons == (
        "over-current, seen 2 times in 40 samples",
        "thermal, seen once in 40 samples",
    )


def test_events_before_the_window_do_not_count_and_late_ones_do() -> None:
    trace = gpu([1020.0] * 40, at2=("thermal",), at35=("over-current",))
    assert verdict(trace, 50 * MS, 200 * MS).word == "stable"
    assert verdict(trace, 50 * MS, 300 * MS).word == "throttled"  # counted 50 ms later


def test_processors_are_judged_by_the_fastest() -> None:
    samples = tuple(
        BoardSample(i * MS, {"gpu": 300.0 + i, "cpu0": 1728.0 if i % 2 else 700.0, "cpu4": 1728.0})
        for i in range(40)
    )
    trace = BoardTrace(samples, "sysfs", 0.001)
    assert verdict(trace, 0, 39 * MS, device="cpu").reasons == (
        "the CPU's clock stayed at 1728 MHz",
    )
    assert verdict(trace, 0, 39 * MS, device="gpu").word == "unknown"


@pytest.mark.parametrize(
    ("trace", "reason"),
    [
        (BoardTrace(problem="the sampler could not be started: no"), "could not be started"),
        (BoardTrace((BoardSample(1),), "cpu"), "no clock of the GPU could be read"),
        (gpu([1020.0] * 2), "the GPU's clock was read 2 times only"),
    ],
)
def test_what_was_not_seen_is_unknown(trace: BoardTrace, reason: str) -> None:
    found = verdict(trace, 0, 390 * MS)
    assert found.word == "unknown"
    assert reason in found.reasons[0]
    assert found.to_dict() == {"word": "unknown", "reasons": list(found.reasons)}
