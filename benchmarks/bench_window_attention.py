"""How near do the attention kernels come to the memory's bandwidth, and how far ahead of PyTorch?

Every case runs in one go, taking turns, each as a CUDA graph of several calls over tensors that
take turns too, timed by the device's events:

* `copy`: device-to-device copies that move as many bytes as the case must (`window_cases.py` has
  the formula), by the driver and by a kernel; the faster one is the bandwidth that counts;
* `library`: the kernel library by its C interface, `variant-N`: the kernels it did not choose,
  `operator`: the same through PyTorch's operator;
* PyTorch's ways, with their copies (`window_peers.py`), on cases named by `--peers`.

Every result is compared with the float32 reference before it is timed. Rows go to
`results/DEVICE/DATE.jsonl`. The goals printed beside the figures were set for an H200.

    python -m benchmarks.bench_window_attention [--only 'w7-*']... [--seconds S] [--dry-run]
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch

from benchmarks.cuda_graph import GraphQuery, describe_gpu
from benchmarks.rows import RESULTS
from benchmarks.window_calls import CaseTensors
from benchmarks.window_cases import COPY_RATES, WindowCase, all_cases
from benchmarks.window_outcome import Outcome, keep_rows, print_outcome
from benchmarks.window_peers import Way, ways
from edgeattn.errors import EdgeAttnError, first_line
from edgeattn.models.fused import kernel_library, require_fused
from edgeattn.plugin.kernels import KernelLibrary
from edgeattn.profiling.measure import measure_interleaved
from edgeattn.profiling.stats import LatencyStats

# What a shell calls skipped: nothing was measured, and nothing is wrong.
EXIT_NO_GPU = 77
CUDA = torch.device("cuda")


class CallsQuery(Protocol):
    """A query of the timing loop that makes a number of calls."""

    calls: int

    def __call__(self) -> None:
        """Make the calls and wait for them."""


QueryOf = Callable[[Sequence[Callable[[], object]]], CallsQuery]


def measure_case(
    case: WindowCase,
    library: KernelLibrary,
    *,
    peers: bool,
    seconds: float | None,
    device: torch.device = CUDA,
    query_of: QueryOf = GraphQuery,
) -> Outcome:
    """Check every way on a case, then time them side by side.

    Args:
        case: What to compute.
        library: The kernels.
        peers: Take PyTorch's ways along.
        seconds: Time for each way; `None` only checks.
        device: Where.
        query_of: Makes a query of calls.
    """
    outcome = Outcome(case)
    tensors = CaseTensors(case, device)
    count = tensors.calls_per_graph
    queries: dict[str, CallsQuery] = {}

    chosen, *others = library.variants(tensors.spec, case.in_type, case.out_type, case.shape)
    outcome.chosen_variant = chosen
    calls = {"library": tensors.by_library(library)}
    if case.in_type == case.out_type != "int8":
        calls["operator"] = tensors.by_operator
    calls |= {f"variant-{v}": tensors.by_library(library, v) for v in others}
    for way, call in calls.items():
        tensors.poison()
        _check(outcome, tensors, way, call(0), ours=True)
        if seconds is not None:
            queries[way] = query_of(tensors.calls(call, count))

    if peers:
        made = ways(tensors.spec, case.shape[1:], tensors.bias_table, tensors.qkv[0].dtype, device)
        for way, function in made.items():
            # One that PyTorch cannot compile or fit into memory is named, and the others go on.
            try:
                _check(outcome, tensors, way, function(tensors.qkv[0]), ours=False)
                if seconds is not None:
                    queries[way] = query_of(_peer_calls(tensors, function))
            except Exception as err:
                outcome.failures[way] = first_line(err)
                torch.cuda.empty_cache()

    if seconds is not None:
        queries |= _copies(case, len(tensors.qkv), count, device, query_of)
        measured = measure_interleaved(queries, duration_s=seconds, warm_up_ms=50)
        for way, measurement in measured.items():
            samples = [ms / queries[way].calls for ms in measurement.compute_ms]
            outcome.stats[way] = LatencyStats.from_samples(samples)
    return outcome


def _peer_calls(tensors: CaseTensors, function: Way) -> list[Callable[[], object]]:
    sets = len(tensors.qkv)
    count = tensors.calls_per_graph if sets == 1 else sets
    return tensors.calls(lambda number: function(tensors.qkv[number]), count)


def _check(
    outcome: Outcome, tensors: CaseTensors, way: str, out: torch.Tensor, *, ours: bool
) -> None:
    error, allowed = tensors.error_of(out), tensors.allowed_error(ours=ours)
    outcome.errors[way] = error
    if not error <= allowed:
        raise EdgeAttnError(
            f"{tensors.case.name}: the result of {way} is off by {error:.2g}; allowed {allowed:.2g}"
        )


def _copies(
    case: WindowCase, sets: int, count: int, device: torch.device, query_of: QueryOf
) -> dict[str, CallsQuery]:
    """Make the copies that move as many bytes as a case, read and written bytes both counted."""
    words = case.bytes_moved // 2 // 4
    sources = [
        torch.randint(-(2**31), 2**31, (words,), dtype=torch.int32, device=device)
        for _ in range(sets)
    ]
    pairs = [(source, torch.empty_like(source)) for source in sources]
    turns = list(itertools.islice(itertools.cycle(pairs), count))
    return {
        "copy": query_of([functools.partial(target.copy_, source) for source, target in turns]),
        "copy-kernel": query_of(
            [functools.partial(torch.bitwise_not, source, out=target) for source, target in turns]
        ),
    }


def print_dry_run(cases: Sequence[WindowCase]) -> None:
    """List cases, bytes and the least time they allow, without a GPU."""
    rates = dict(COPY_RATES)
    if torch.cuda.is_available():
        local = WindowCase((8,), 32, 8, 2, 336, 336, "float16", "float16", False, False)
        queries = _copies(local, 2, 16, CUDA, GraphQuery)
        measured = measure_interleaved(queries, duration_s=0.2, warm_up_ms=50)
        ms = min(min(m.compute_ms) / queries[way].calls for way, m in measured.items())
        rates = {torch.cuda.get_device_name(): local.bytes_moved / ms * 1e3, **rates}
    print("least microseconds per call = bytes / copy rate")
    print(f"{'':34}{'MB':>8}" + "".join(f"{name:>18}" for name in rates))
    for case in cases:
        floors = "".join(f"{case.bytes_moved / rate * 1e6:18.1f}" for rate in rates.values())
        print(f"{case.name:34}{case.bytes_moved / 1e6:8.1f}{floors}")


def chosen_cases(arguments: argparse.Namespace) -> list[WindowCase]:
    """Pick the cases that the command line names, and of these its share."""
    cases = all_cases(arguments.batch)
    if arguments.only:
        cases = [
            case
            for case in cases
            if any(fnmatch.fnmatchcase(case.name, pattern) for pattern in arguments.only)
        ]
    index, of = arguments.shard
    return cases[index - 1 :: of]


def takes_peers(case: WindowCase, which: str) -> bool:
    """Tell whether PyTorch's ways run on a case: INT8 has none, and compiling takes its time."""
    if case.in_type == "int8" or which == "none":
        return False
    return which == "all" or (case.in_type == "float16" and case.shift == case.bias)


def load_library() -> KernelLibrary:
    """Find the kernels, or leave with one sentence."""
    if not torch.cuda.is_available():
        print("this benchmark needs a CUDA device, and PyTorch sees none", file=sys.stderr)
        print("hint: --dry-run lists the cases without one", file=sys.stderr)
        raise SystemExit(EXIT_NO_GPU)
    library = kernel_library()
    if not isinstance(library, KernelLibrary):
        raise SystemExit(f"{library.message}\nhint: {library.hint}")
    return library


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", metavar="GLOB", help="cases by name; repeat")
    parser.add_argument("--seconds", type=float, default=0.3, help="time for each way of a case")
    parser.add_argument("--time-limit", type=float, metavar="S", help="start no case after S")
    parser.add_argument("--peers", choices=("some", "all", "none"), default="some")
    parser.add_argument("--batch", type=int, default=2, help="images of 336 x 336 tokens")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the rows")
    parser.add_argument("--dry-run", action="store_true", help="list cases, bytes and floors")
    parser.add_argument("--check-only", action="store_true", help="compare results, time nothing")
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="the I-th of N shares of cases"
    )
    return parser.parse_args(arguments)


def _shard(text: str) -> tuple[int, int]:
    index, _, of = text.partition("/")
    if index.isdigit() and of.isdigit() and 1 <= int(index) <= int(of):
        return int(index), int(of)
    raise argparse.ArgumentTypeError(f"{text!r} is no I/N with 1 <= I <= N")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Returns:
        0; 1 if a result was wrong or a kernel failed; 77 without a GPU.
    """
    options = parse(arguments)
    cases = chosen_cases(options)
    if not cases:
        raise SystemExit(f"no case is named {', '.join(options.only or [])}")
    if options.dry_run:
        print_dry_run(cases)
        return 0
    library = load_library()
    require_fused()
    return run_cases(cases, library, options)


@torch.no_grad()
def run_cases(
    cases: Sequence[WindowCase], library: KernelLibrary, options: argparse.Namespace
) -> int:
    """Measure cases one after the other; a wrong or failing one does not stop the others."""
    print(f"{describe_gpu()['name']}, kernels {library.path}")
    print(
        f"{'us per call, median':34}{'library':>9}{'operator':>9}{'GB/s':>7}  "
        f"{'of copy, goal':18}{'x best of PyTorch':34}x FP16"
    )
    start, wrong, missed, left = time.monotonic(), 0, 0, list(cases)
    ours_ms: dict[str, float] = {}
    while left:
        if options.time_limit and time.monotonic() - start > options.time_limit:
            break
        case = left.pop(0)
        seconds = None if options.check_only else options.seconds
        before = describe_gpu()
        try:
            peers = takes_peers(case, options.peers)
            outcome = measure_case(case, library, peers=peers, seconds=seconds)
        except (EdgeAttnError, RuntimeError) as err:
            wrong += 1
            print(f"{case.name:34}FAILED: {first_line(err)}")
            continue
        finally:
            torch.compiler.reset()
            torch.cuda.empty_cache()
        if seconds is None:
            errors = "  ".join(f"{way} {error:.1e}" for way, error in outcome.errors.items())
            failures = "".join(f"  {way} FAILED: {why}" for way, why in outcome.failures.items())
            print(f"{case.name:34}{errors}{failures}", flush=True)
            continue
        ours_ms[case.name] = outcome.stats["library"].p50_ms
        in_fp16 = ours_ms.get(case.name.replace("-int8-", "-fp16-"))
        if case.in_type == case.out_type == "int8" and in_fp16:
            outcome.int8_gain = in_fp16 / ours_ms[case.name]
        missed += sum(figure < bound for figure, bound in outcome.goals.values())
        print_outcome(outcome)
        sys.stdout.flush()
        gpu = describe_gpu() | {"temp_c_before": before["temp_c"]}
        keep_rows(outcome, library.build_info, gpu, options.results)
    if left:
        print(f"{len(left)} cases were not run, the time being up: {left[0].name}, ...")
    print(f"{len(cases) - len(left)} cases, {wrong} wrong or failed, {missed} goals missed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
