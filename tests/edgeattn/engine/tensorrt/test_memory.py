"""What memory a build is said to need and to get: what the kernel tells, and the edges of it."""

from __future__ import annotations

import sys

import pytest

from edgeattn.engine.tensorrt import device, memory
from edgeattn.engine.tensorrt.memory import MemoryState, check_memory, memory_state, read_memory
from tests.pycuda_standin import Ledger, install

MIB = 1 << 20

# An Orin Nano of 8 GB with its desktop, in the form of proc(5).
MEMINFO = """\
MemTotal:        7802104 kB
MemFree:          412340 kB
MemAvailable:    3145728 kB
Buffers:           89216 kB
Cached:          2764532 kB
SwapTotal:       3901040 kB
SwapFree:        3901040 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
"""
SWAPS = """\
Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority
/dev/zram0                              partition\t650172\t\t0\t\t5
/dev/zram1                              partition\t650172\t\t120\t\t5
/swap\\040file                           file\t\t8388604\t\t1048576\t\t-2
"""
NO_SWAPS = SWAPS.splitlines()[0] + "\n"


def board(available: int = 5_000, swap: int = 0, total: int = 8_000) -> MemoryState:
    """A board whose GPU shares the memory; sizes in MiB."""
    return MemoryState(total * MIB, available * MIB, swap * MIB, is_shared=True)


def desktop(free: int | None = 20_000, available: int = 30_000) -> MemoryState:
    """A desktop with 24 GiB on its GPU; sizes in MiB."""
    gpu = {} if free is None else {"gpu_free_bytes": free * MIB, "gpu_total_bytes": 24_576 * MIB}
    return MemoryState(64_000 * MIB, available * MIB, 0, is_shared=False, **gpu)


# Reading


def test_the_kernels_figures_are_read_in_bytes():
    state = memory_state(MEMINFO, SWAPS, is_shared=True, gpu_free_bytes=5, gpu_total_bytes=7)
    assert state == MemoryState(
        total_bytes=7802104 * 1024,
        available_bytes=3145728 * 1024,
        swap_bytes=(8388604 - 1048576) * 1024,  # zram is memory itself
        is_shared=True,
        gpu_free_bytes=5,
        gpu_total_bytes=7,
    )


def test_without_an_estimate_of_the_kernel_cache_counts_as_available():
    old = MEMINFO.replace("MemAvailable:    3145728 kB\n", "")
    state = memory_state(old, NO_SWAPS, is_shared=False)
    assert state.available_bytes == (412340 + 89216 + 2764532) * 1024
    assert state.swap_bytes == 0
    assert state.gpu_free_bytes is None


@pytest.mark.parametrize("meminfo", ["", "\n", "MemTotal\n", "MemTotal: many kB\nX: 3\n:\n"])
def test_what_cannot_be_read_counts_as_nothing(meminfo):
    state = memory_state(meminfo, "", is_shared=True)
    assert (state.total_bytes, state.available_bytes, state.swap_bytes) == (0, 0, 0)


@pytest.mark.parametrize("integrated", [True, False])
def test_the_gpu_is_asked_where_it_is(integrated, monkeypatch):
    device._retained.cache_clear()
    ledger = Ledger()
    ledger.integrated = integrated
    ledger.capacity = 12_345
    for name, module in install(ledger).items():
        monkeypatch.setitem(sys.modules, name, module)
    state = read_memory()
    assert state.is_shared == integrated
    assert (state.gpu_free_bytes, state.gpu_total_bytes) == (12_345, 12_345)
    assert 0 < state.available_bytes <= state.total_bytes  # of the machine that the test runs on
    assert state.swap_bytes >= 0
    assert ledger.current == []
    device._retained.cache_clear()


@pytest.mark.parametrize("is_jetson", [True, False])
def test_without_pycuda_the_board_tells_whether_memory_is_shared(is_jetson, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    release = tmp_path / "nv_tegra_release"
    monkeypatch.setattr(memory, "_TEGRA_RELEASE", release)
    if is_jetson:
        release.write_text("# R36 (release), REVISION: 4.3")
    state = read_memory()
    assert state.is_shared == is_jetson
    assert state.gpu_free_bytes is None


# The workspace


def test_a_board_keeps_an_eighth_and_two_copies_of_the_weights():
    workspace, findings = check_memory(100 * MIB, 10 * MIB, None, board(available=5_000))
    assert workspace == (5_000 - 1_000 - 200) * MIB
    assert findings == []


def test_a_desktop_keeps_two_copies_of_the_weights_of_its_gpus_memory():
    workspace, findings = check_memory(100 * MIB, 10 * MIB, None, desktop(free=20_000))
    assert workspace == (20_000 - 200) * MIB
    assert findings == []


@pytest.mark.parametrize("state", [board(), desktop()])
def test_what_was_asked_for_is_kept_where_it_fits(state):
    most, _ = check_memory(100 * MIB, 0, None, state)
    for asked in (1, 256 * MIB, most):
        assert check_memory(100 * MIB, 0, asked, state) == (asked, [])


@pytest.mark.parametrize("state", [board(), desktop()])
def test_what_does_not_fit_is_limited_and_that_is_said(state):
    most, _ = check_memory(100 * MIB, 0, None, state)
    workspace, (finding,) = check_memory(100 * MIB, 0, most + MIB, state)
    assert workspace == most
    assert finding.level == "note"
    assert f"{most // MIB:,} MiB are left for it" in finding.text
    assert finding.hint == f"--workspace {most // MIB} says the same"


def test_a_board_without_room_gets_the_least_and_a_warning():
    for asked in (None, 4_000 * MIB):
        workspace, findings = check_memory(10 * MIB, 0, asked, board(available=1_060))
        assert workspace == 64 * MIB  # 1,060 - 1,000 - 20 are 40
        (finding,) = [f for f in findings if "few algorithms" in f.text]
        assert finding.level == "warning"
        assert "multi-user.target" in finding.hint
    workspace, findings = check_memory(10 * MIB, 0, 32 * MIB, board(available=1_060))
    assert workspace == 32 * MIB  # less was asked for


def test_the_least_workspace_itself_is_no_warning():
    state = board(available=1_000 + 20 + 64 + 2_000, total=8_000)
    assert check_memory(10 * MIB, 0, None, state)[0] == 2_064 * MIB
    state = board(available=1_084)
    workspace, findings = check_memory(10 * MIB, 0, None, state)
    assert workspace == 64 * MIB
    assert not [f for f in findings if "few algorithms" in f.text]


@pytest.mark.parametrize("asked", [None, 512 * MIB])
def test_of_a_gpu_that_was_not_asked_nothing_is_promised(asked):
    workspace, (finding,) = check_memory(100 * MIB, 10 * MIB, asked, desktop(free=None))
    assert workspace == asked
    assert finding.level == "note"
    assert "pycuda" in finding.hint


def test_a_boards_shared_memory_counts_even_if_the_gpu_reports_less():
    """The driver leaves the page cache out, which would make room."""
    state = MemoryState(8_000 * MIB, 5_000 * MIB, 0, True, 300 * MIB, 8_000 * MIB)
    assert check_memory(100 * MIB, 0, None, state) == check_memory(100 * MIB, 0, None, board())


# The weights


@pytest.mark.parametrize(
    ("available", "swap", "level"),
    [
        (1_999, 0, "error"),
        (2_000, 0, "warning"),  # twice the weights
        (1_000, 999, "error"),
        (1_000, 1_000, "warning"),
        (3_000 + 1_023, 0, "warning"),
        (3_000 + 1_024, 0, None),  # three times and what a builder takes
        (3_000 + 1_023, 9_000, "warning"),  # swap makes it possible, not fast
    ],
)
def test_weights_are_compared_with_memory_at_the_edge(available, swap, level):
    _, findings = check_memory(1_000 * MIB, 0, None, board(available, swap, total=8_000))
    found = [f for f in findings if "weights" in f.text and "workspace" not in f.text]
    assert [f.level for f in found] == ([level] if level else [])
    for finding in found:
        assert f"{available:,} MiB of memory are available" in finding.text
        assert ("of swap" in finding.text) == bool(swap)
        assert "1,000 MiB of weights" in finding.text
        assert "--optimization-level" in finding.hint
        assert ("swapon" in finding.hint) == (not swap)
        assert "multi-user.target" in finding.hint


def test_a_desktop_is_not_told_to_stop_its_desktop():
    _, (finding,) = check_memory(1_000 * MIB, 0, None, desktop(available=3_000))
    assert finding.level == "warning"
    assert "multi-user" not in finding.hint


def test_weights_that_do_not_fit_the_gpu_are_an_error():
    _, findings = check_memory(20_001 * MIB, 0, None, desktop(free=20_000, available=500_000))
    assert findings[0].level == "error"
    assert findings[0].text == (
        "20,000 MiB of the GPU's memory are free; the weights alone take 20,001 MiB"
    )
    _, findings = check_memory(20_000 * MIB, 0, None, desktop(free=20_000, available=500_000))
    assert [f.level for f in findings] == ["warning"]  # no room for a workspace


# The largest tensor


@pytest.mark.parametrize(
    ("largest", "level"),
    [(0, None), (2_500, None), (2_501, "warning"), (5_000, "warning"), (5_001, "error")],
)
def test_the_largest_tensor_must_fit_in_one_piece(largest, level):
    _, findings = check_memory(10 * MIB, largest * MIB, None, board(available=5_000))
    found = [f for f in findings if "in one piece" in f.text]
    assert [f.level for f in found] == ([level] if level else [])


def test_the_worst_comes_first():
    _, findings = check_memory(
        4_000 * MIB, 600 * MIB, 9_000 * MIB, board(available=1_000, total=8_000)
    )
    levels = [finding.level for finding in findings]
    assert levels == ["error", "warning", "warning", "note"]


def test_an_empty_model_on_a_large_board_needs_nothing():
    assert check_memory(0, 0, None, board(available=60_000, total=64_000)) == (52_000 * MIB, [])
