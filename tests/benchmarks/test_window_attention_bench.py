"""The benchmark of the attention kernels, as far as a machine without a GPU can run it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bench_window_attention as bench
from benchmarks.window_calls import CaseTensors
from benchmarks.window_cases import LEAST_BYTES, WINDOWS, WindowCase, all_cases
from benchmarks.window_outcome import Outcome, keep_rows, print_outcome
from edgeattn.errors import EdgeAttnError
from edgeattn.plugin.kernels import KernelLibrary
from edgeattn.profiling.stats import LatencyStats

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def emulator() -> KernelLibrary:
    from edgeattn.plugin.emulator import build_emulator

    return KernelLibrary(build_emulator())


def _small(in_type: str = "float16", out_type: str | None = None, **changes: Any) -> WindowCase:
    values = {
        "windows": (4,),
        "head_dim": 32,
        "heads": 2,
        "batch": 2,
        "height": 8,
        "width": 8,
        "in_type": in_type,
        "out_type": out_type or in_type,
        "shift": True,
        "bias": True,
        "kind": "model",
    }
    return WindowCase(**{**values, **changes})


class HostQuery:
    """The first calls of a query, without a graph."""

    def __init__(self, calls: Sequence[Callable[[], object]]) -> None:
        self._calls = calls[:2]
        self.calls = len(self._calls)

    def __call__(self) -> None:
        for call in self._calls:
            call()


# --- the cases ------------------------------------------------------------------------------------


def test_the_cases_have_names_of_their_own_and_cover_what_is_promised() -> None:
    cases = all_cases()
    assert len({case.name for case in cases}) == len(cases)
    covered = {
        (case.windows, case.head_dim, case.in_type, case.shift, case.bias)
        for case in cases
        if case.kind == "bandwidth"
    }
    for windows in WINDOWS:
        for head_dim in (32, 64):
            for masked in (True, False):
                for in_type in ("float16", "bfloat16", "int8"):
                    assert (windows, head_dim, in_type, masked, masked) in covered
                assert (windows, head_dim, "float16", masked, not masked) in covered
    assert {case.kind for case in cases} == {"bandwidth", "padded", "model"}


def test_large_cases_outgrow_every_cache_and_need_no_padding() -> None:
    for case in all_cases():
        if case.kind == "bandwidth":
            assert case.bytes_moved >= LEAST_BYTES
            assert not any(336 % window for window in case.windows)
        if case.kind == "padded":
            assert any(case.height % window and case.width % window for window in case.windows)


def test_the_bytes_are_the_projection_once_and_the_output_once() -> None:
    assert _small("float16").bytes_moved == 2 * 8 * 8 * (3 * 64 * 2 + 64 * 2)
    assert _small("int8").bytes_moved == 2 * 8 * 8 * (3 * 64 + 64)
    assert _small("int8", "float16").bytes_moved == 2 * 8 * 8 * (3 * 64 + 64 * 2)


def test_the_spec_is_what_the_name_says() -> None:
    (case,) = [case for case in all_cases() if case.name == "w4+8+16-d32-fp16-shift-bias"]
    assert [(g.num_heads, g.window_size, g.shift_size) for g in case.spec.head_groups] == [
        (3, (4, 4), (2, 2)),
        (3, (8, 8), (4, 4)),
        (2, (16, 16), (8, 8)),
    ]
    assert case.spec.has_bias
    (plain,) = [case for case in all_cases() if case.name == "w7-d64-int8-plain"]
    assert plain.spec.head_groups[0].shift_size == (0, 0)
    assert not plain.spec.has_bias
    assert plain.spec.qkv_quant_scale > 0
    assert plain.spec.out_quant_scale > 0


@pytest.mark.parametrize(
    ("name", "share", "speedup", "gain"),
    [
        ("w7-d32-fp16-plain", 0.80, 3.0, None),
        ("w12-d64-fp16-plain", 0.80, None, None),
        ("w14-d32-bf16-shift-bias", 0.65, None, None),
        ("w16-d32-fp16-bias", 0.65, 2.0, None),
        ("w4+8+16-d64-fp16-shift", 0.65, 2.0, None),
        ("w8-d32-int8-plain", 0.80, None, 1.6),
        ("w16-d32-int8-plain", 0.65, None, None),
        ("w7-d32-int8tofp16-shift-bias", 0.80, None, None),
        ("w7-d32-fp16-shift-bias-padded333x341", None, None, None),
        ("w7-d32-int8-shift-bias-model56x56", None, None, None),
    ],
)
def test_the_goals_are_those_that_were_set(
    name: str, share: float | None, speedup: float | None, gain: float | None
) -> None:
    (case,) = [case for case in all_cases() if case.name == name]
    assert (case.least_share, case.least_speedup, case.least_int8_gain) == (share, speedup, gain)


def test_a_smaller_batch_that_fits_the_cache_is_not_judged() -> None:
    judged = [case for case in all_cases(batch=1) if case.least_share is not None]
    assert judged
    assert all(case.bytes_moved >= LEAST_BYTES for case in judged)
    assert not any(case.out_type == "int8" for case in judged)


# --- calls and checks -----------------------------------------------------------------------------

FORMS = [("float16", "float16"), ("bfloat16", "bfloat16"), ("int8", "int8"), ("int8", "float16")]


@pytest.mark.parametrize(("in_type", "out_type"), FORMS)
def test_the_kernels_pass_the_check(emulator: KernelLibrary, in_type: str, out_type: str) -> None:
    tensors = CaseTensors(_small(in_type, out_type), CPU)
    tensors.poison()
    out = tensors.by_library(emulator)(0)
    assert out.dtype == getattr(torch, out_type)
    assert tensors.error_of(out) <= tensors.allowed_error(ours=True)


@pytest.mark.parametrize(("in_type", "out_type"), FORMS)
def test_a_place_left_out_fails_the_check(
    emulator: KernelLibrary, in_type: str, out_type: str
) -> None:
    tensors = CaseTensors(_small(in_type, out_type), CPU)
    tensors.by_library(emulator)(0)
    right = tensors.out[0].clone()
    tensors.poison()
    right[1, 7, 7, 63] = tensors.out[0][1, 7, 7, 63]
    assert not tensors.error_of(right) <= tensors.allowed_error(ours=True)


def test_an_output_of_other_inputs_fails_even_the_loosest_check(emulator: KernelLibrary) -> None:
    case = _small("bfloat16")
    other = CaseTensors(case, CPU, seed=1)
    out = other.by_library(emulator)(0)
    tensors = CaseTensors(case, CPU)
    assert tensors.error_of(out) > tensors.allowed_error(ours=False)


def test_int8_may_round_otherwise_seldom_and_by_one_step() -> None:
    tensors = CaseTensors(_small("int8"), CPU)
    steps = torch.cat(tensors.expected) / tensors.spec.out_quant_scale
    right = steps.round().clamp(-128, 127).to(torch.int8)
    assert tensors.error_of(right) == 0
    seldom = right.clone()
    seldom[0, 0, 0, 0] += 1 if right[0, 0, 0, 0] < 127 else -1
    assert tensors.error_of(seldom) == pytest.approx(1 / right.numel())
    two = right.clone()
    two[0, 0, 0, 0] += 2 if right[0, 0, 0, 0] < 126 else -2
    assert tensors.error_of(two) == float("inf")


def test_the_outputs_use_the_range_of_int8() -> None:
    for window in (4, 8):
        tensors = CaseTensors(_small("int8", windows=(window,), height=16, width=16), CPU)
        largest = torch.cat(tensors.expected).abs().max() / tensors.spec.out_quant_scale
        assert 40 < float(largest) < 400


def test_large_cases_take_turns_among_sets_that_outgrow_the_cache() -> None:
    tensors = CaseTensors.__new__(CaseTensors)
    (tensors.case,) = [case for case in all_cases() if case.name == "w7-d32-int8-plain"]
    tensors.qkv = [torch.empty(0)] * 3
    assert tensors.calls_per_graph % 3 == 0
    assert tensors.calls_per_graph * tensors.case.bytes_moved >= 4e9
    seen: list[int] = []
    for call in tensors.calls(seen.append, 6):
        call()
    assert seen == [0, 1, 2, 0, 1, 2]


# --- the run of a case ----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeattn.profiling import measure

    monkeypatch.setattr(measure, "_SETTLE_NS", 0)
    monkeypatch.setattr(measure, "_TURN_NS", 0)


def _measure(library: KernelLibrary, case: WindowCase, **changes: Any) -> Outcome:
    options: dict[str, Any] = {"peers": False, "seconds": 0.0} | changes
    return bench.measure_case(case, library, device=CPU, query_of=HostQuery, **options)


def test_a_case_times_the_library_its_variants_the_operator_and_copies(
    emulator: KernelLibrary,
) -> None:
    case = _small(heads=1, batch=1)
    outcome = _measure(emulator, case)
    chosen, *others = emulator.variants(case.spec, "float16", "float16", case.shape)
    assert others
    assert outcome.chosen_variant == chosen
    ours = {"library", "operator", *(f"variant-{v}" for v in others)}
    assert set(outcome.stats) == ours | {"copy", "copy-kernel"}
    assert set(outcome.errors) == ours
    assert outcome.share_of_copy is not None
    assert outcome.speedup is None


def test_int8_has_no_operator(emulator: KernelLibrary) -> None:
    outcome = _measure(emulator, _small("int8", heads=1, batch=1))
    assert "operator" not in outcome.stats
    assert "library" in outcome.stats


def test_a_wrong_result_is_never_timed(
    emulator: KernelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator, "launch", lambda *_, **__: None)
    with pytest.raises(EdgeAttnError, match="the result of library is off by nan"):
        _measure(emulator, _small())


def test_checking_alone_times_nothing(emulator: KernelLibrary) -> None:
    outcome = _measure(emulator, _small(heads=1, batch=1), seconds=None)
    assert not outcome.stats
    assert "library" in outcome.errors


def test_peers_are_checked_and_timed_and_a_failing_one_is_named(
    emulator: KernelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = _small(heads=1, batch=1)
    make = bench.ways

    def peers(*arguments: Any) -> dict[str, bench.Way]:
        made = make(*arguments, compiled=False)

        def broken(qkv: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of memory\nat length")

        def slow(qkv: torch.Tensor) -> torch.Tensor:
            time.sleep(0.002)
            return made["sdpa"](qkv)

        return {"fast": made["plain-compiled"], "slow": slow, "broken": broken} | {
            "wrong": lambda qkv: made["sdpa"](qkv) * 2
        }

    monkeypatch.setattr(bench, "ways", peers)
    outcome = _measure(emulator, case, peers=True)
    assert set(outcome.peers) == {"fast", "slow"}
    assert outcome.best_peer == "fast"
    assert outcome.failures["broken"] == "RuntimeError: out of memory"
    assert "the result of wrong is off by" in outcome.failures["wrong"]


# --- what is printed and kept ---------------------------------------------------------------------


def _outcome(name: str, **medians_ms: float) -> Outcome:
    (case,) = [case for case in all_cases() if case.name == name]
    stats = {
        way.replace("_", "-"): LatencyStats.from_samples([ms]) for way, ms in medians_ms.items()
    }
    return Outcome(case, stats)


def test_goals_are_printed_beside_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = _outcome(
        "w7-d32-fp16-plain", library=0.2, operator=0.21, copy=0.17, copy_kernel=0.18, sdpa=0.5
    )
    print_outcome(outcome)
    line = capsys.readouterr().out
    assert "200.0    210.0   2312" in line
    assert "0.85 >= 0.8" in line
    assert "2.50 MISSES 3 " in line
    assert "sdpa" in line


def test_a_better_variant_and_a_failed_peer_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = _outcome("w8-d32-int8-plain", library=0.2, variant_3=0.15, copy=0.1, copy_kernel=0.2)
    outcome.int8_gain, outcome.chosen_variant = 1.7, 2
    outcome.failures["flex-windows"] = "RuntimeError: no"
    print_outcome(outcome)
    lines = capsys.readouterr().out.splitlines()
    assert "0.50 MISSES 0.8" in lines[0]
    assert lines[0].endswith("1.70 >= 1.6")
    assert lines[1:] == [
        "    variant-3 is faster than the library's choice, variant-2: 150.0 us",
        "    flex-windows has no time: RuntimeError: no",
    ]


def test_rows_are_kept_under_the_gpus_name(tmp_path: Path) -> None:
    outcome = _outcome(
        "w16-d64-fp16-shift-bias", library=0.2, copy=0.15, copy_kernel=0.16, sdpa=0.5
    )
    kernels = {"cuda": "13.0", "architectures": [90], "source_sha256": "ab", "kind": "cuda"}
    keep_rows(outcome, kernels, {"name": "NVIDIA H200", "temp_c": "40"}, tmp_path)
    (path,) = (tmp_path / "nvidia-h200").iterdir()
    rows = {row["case"]["way"]: row for row in map(json.loads, path.read_text().splitlines())}
    assert set(rows) == {"library", "copy", "copy-kernel", "sdpa"}
    ours = rows["library"]
    assert ours["benchmark"] == "window_attention"
    assert ours["gpu"]["name"] == "NVIDIA H200"
    assert ours["case"]["kernels"] == {
        "cuda": "13.0",
        "architectures": [90],
        "source_sha256": "ab",
    }
    assert ours["result"]["gb_per_s"] == pytest.approx(462.4225 / 0.2, rel=1e-4)
    assert ours["result"]["share_of_copy"] == pytest.approx(0.75)
    assert ours["result"]["best_peer"] == "sdpa"
    assert ours["result"]["goals"] == {
        "share_of_copy": [pytest.approx(0.75), 0.65],
        "speedup": [pytest.approx(2.5), 2.0],
    }


# --- the command line -----------------------------------------------------------------------------


def test_a_dry_run_lists_cases_bytes_and_floors(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["--dry-run", "--only", "w7-d32-fp16-*", "--only", "w16-d64-int8-plain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("w7-d32-fp16-plain ")]
    # 2 * 336 * 336 tokens, 4 * 256 channels of 2 bytes, over 4.3 TB/s.
    assert line.split()[1:3] == ["462.4", "107.5"]
    assert any(line.startswith("w16-d64-int8-plain") for line in lines)
    assert not any(line.startswith("w4-") for line in lines)


def test_without_a_gpu_one_sentence_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as caught:
        bench.main([])
    assert caught.value.code == 77
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == "this benchmark needs a CUDA device, and PyTorch sees none"


def test_a_pattern_that_names_no_case_is_refused() -> None:
    with pytest.raises(SystemExit, match="no case is named w5"):
        bench.main(["--dry-run", "--only", "w5-*"])


def test_shards_share_out_the_cases() -> None:
    shards = [bench.chosen_cases(bench.parse(["--shard", f"{i}/3"])) for i in (1, 2, 3)]
    assert sorted(c.name for shard in shards for c in shard) == sorted(c.name for c in all_cases())
    with pytest.raises(SystemExit):
        bench.parse(["--shard", "4/3"])


@pytest.mark.parametrize(
    ("name", "which", "expected"),
    [
        ("w7-d32-fp16-plain", "some", True),
        ("w7-d32-fp16-shift-bias", "some", True),
        ("w7-d32-fp16-bias", "some", False),
        ("w7-d32-bf16-plain", "some", False),
        ("w7-d32-bf16-plain", "all", True),
        ("w7-d32-int8-plain", "all", False),
        ("w7-d32-fp16-plain", "none", False),
    ],
)
def test_peers_run_where_they_were_asked_for(name: str, which: str, expected: bool) -> None:
    (case,) = [case for case in all_cases() if case.name == name]
    assert bench.takes_peers(case, which) is expected
