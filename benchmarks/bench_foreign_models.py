"""What edgeattn makes of the models that people already have: found, fused, equal, faster?

Every model of `foreign_models` (random weights, published configurations), one after the other,
batch 1, each step in a process of its own so that its memory is its own:

1. export, as `foreign_exports` says; kept in the cache;
2. fuse: seconds and memory, what became of each attention, and the bytes that the plugin saves;
3. simplify: how many nodes edgeattn's onnxsim step leaves of the exported graph;
4. build for the CPU as written and fused: the largest relative error of the outputs, and the
   latency of both by turns.

A model that fails somewhere has a row that says where and why.

    python -m benchmarks.bench_foreign_models [--only NAME]... [--no-latency] [--resume]

Without latencies it takes about half an hour on two quiet cores, exports included; these are kept,
7 GB in all. Latencies take as much again and count on a quiet machine only.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import onnx

import edgeattn
from benchmarks.foreign_exports import exported
from benchmarks.foreign_models import MODELS, PublicModel
from benchmarks.int8_tools import peak_mib
from benchmarks.past_rows import Resumed
from benchmarks.rows import RESULTS, append_row
from edgeattn.engine.base import BoundQuery
from edgeattn.engine.host import usable_cores
from edgeattn.errors import first_line
from edgeattn.graph.files import load_graph
from edgeattn.graph.fuse_report import fuse_report
from edgeattn.graph.fusion.found import Fusion
from edgeattn.graph.kernel_heads import kernel_head_dim
from edgeattn.graph.passes.fuse_window_attention import fuse_window_attention
from edgeattn.graph.shapes import infer_types
from edgeattn.graph.simplify import simplify
from edgeattn.graph.verify import relative_error, run_graph
from edgeattn.plugin.attention_cost import attention_costs
from edgeattn.profiling.bootstrap import ratio_interval
from edgeattn.profiling.measure import measure_interleaved
from edgeattn.profiling.stats import LatencyStats

BENCHMARK = "foreign_models"
CACHE = Path(__file__).parent.parent / "build" / "foreign_models"
AS_WRITTEN, FUSED = "as written", "fused"

# Fewer times have no interval; the slowest model takes ten seconds for one.
_LEAST_RUNS = 6

Result = dict[str, Any]
T = TypeVar("T")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=MODELS, metavar="NAME", help="one model")
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each engine")
    parser.add_argument("--no-latency", action="store_true", help="numbers and counts alone")
    parser.add_argument("--resume", action="store_true", help="leave out what was measured today")
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"exports; by default {CACHE}")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where rows are written")
    arguments = parser.parse_args()
    seconds = None if arguments.no_latency else arguments.seconds
    resumed = Resumed(BENCHMARK, arguments.resume, arguments.results)
    for name in arguments.only or MODELS:
        case = case_of(name, seconds)
        if resumed.result(case) is None:
            start = time.monotonic()
            result = measure_model(MODELS[name], arguments.cache, seconds)
            append_row(BENCHMARK, case, result, results=arguments.results)
            print(f"{name:28}{describe(result)} ({time.monotonic() - start:.0f} s)", flush=True)


def case_of(name: str, seconds: float | None) -> dict[str, Any]:
    """Say what a row is matched by."""
    return {"model": name, "batch": 1, "timed": seconds is not None}


def measure_model(model: PublicModel, cache: Path, seconds: float | None) -> Result:
    """Take one model through all steps.

    Args:
        model: The model.
        cache: Folder of exported graphs.
        seconds: Time for each engine; `None` to leave latencies out.

    Returns:
        What each step found, under its name; `failed` names the step that did not end, and why.
    """
    steps: dict[str, Callable[[], Any]] = {
        "fusion": lambda: alone(fuse_graph, path),
        "simplification": lambda: alone(simplify_graph, path, model),
        "engines": lambda: alone(compare_engines, path, model, seconds),
    }
    found: Result = {"input_shape": list(model.input_shape), "published": model.published}
    step = "export"
    try:
        path, found["export"] = alone(exported, model, cache)
        for step, run in steps.items():
            found[step] = run()
    except Exception as err:  # whatever a library raises is the finding
        found["failed"] = f"{step}: {first_line(err)}"
    return found


def alone(step: Callable[..., T], *arguments: object) -> T:
    """Call a function in a fresh process, and give what it gives or raise what it raises."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        task = pool.submit(step, *arguments)
        failure = task.exception()
        if failure is not None:
            raise failure from None  # its cause would be the other process's traceback, as text
        return task.result()


def fuse_graph(path: Path) -> Result:
    """Fuse a graph: seconds, memory of the process, what became of it, bytes that are saved.

    Returns:
        What `fuse_report` tells, the attentions counted: `windows` of those fused, `reasons` of
        those left; `seconds` of fusing, without reading the file; `peak_mib`, the most that the
        process held, the graph among it; `bytes_moved`, see `traffic`.
    """
    model = load_graph(path)
    start = time.perf_counter()
    fusion = fuse_window_attention(model, in_place=True)  # as `edgeattn fuse` does
    seconds = time.perf_counter() - start
    found: Result = {
        "seconds": seconds,
        "peak_mib": peak_mib(),
        "file_mib": path.stat().st_size / 2**20,
    }
    found |= fuse_report(fusion)
    attentions = found.pop("attentions")
    found["windows"] = Counter(windows_of(each) for each in attentions if each["fused"])
    found["reasons"] = Counter(each["reason"] for each in attentions if not each["fused"])
    found["bytes_moved"] = traffic(fusion)
    return found


def windows_of(attention: Mapping[str, Any]) -> str:
    """Name the windows of an attention as `fuse_report` describes it: `7x7 shifted`, `grid 7x7`."""
    words = []
    for group in attention["groups"]:
        mode = "" if group["mode"] == "block" else f"{group['mode']} "
        window = "x".join(str(side or "all") for side in group["window"])
        words.append(f"{mode}{window}{' shifted' if any(group['shift']) else ''}")
    return ", ".join(words)


def traffic(fusion: Fusion) -> dict[str, int]:
    """Count what the fused attentions read and write in FP16: bytes, by the way they are computed.

    The plugin's kernel, one kernel with copies around it, or a kernel for each step; see
    `edgeattn.plugin.attention_cost`.
    """
    types = infer_types(fusion.model)
    total = {"plugin": 0, "mha": 0, "separate": 0}
    for each in fusion.fused:
        assert each.spec is not None
        assert each.map_size is not None
        elements = math.prod(types[each.output].shape or ())
        batch = elements // (math.prod(each.map_size) * each.spec.out_channels)
        # The kernel reads heads of 30 channels as such of 32, the last two of them zeros.
        in_kernel = kernel_head_dim(each.spec.head_dim, onnx.TensorProto.FLOAT16)
        padded = replace(each.spec, head_dim=in_kernel)
        costs = attention_costs(each.spec, batch, *each.map_size)
        costs["plugin"] = attention_costs(padded, batch, *each.map_size)["plugin"]
        for way, cost in costs.items():
            total[way] += cost.bytes_moved
    return total


def simplify_graph(path: Path, model: PublicModel) -> Result:
    """Simplify a graph as `edgeattn export` does, and count what is left."""
    graph = load_graph(path)
    inputs = {graph.graph.input[0].name: model.example}
    simplified = simplify(graph, inputs, run_graph(graph, inputs))
    return {"applied": simplified.applied, "reason": simplified.reason} | {
        "nodes_before": simplified.nodes_before,
        "nodes_after": simplified.nodes_after,
    }


def compare_engines(path: Path, model: PublicModel, seconds: float | None) -> Result:
    """Build a graph for the CPU as it is written and fused, compare outputs, and time both.

    Returns:
        `error`, the largest relative difference of any output; `same`, whether both engines hold
        the same graph; with `seconds` also `threads`, and for graphs that differ the figures of
        both engines and `ratio`, the median as written over the one fused, with its interval.
    """
    threads = usable_cores()
    with tempfile.TemporaryDirectory(prefix="edgeattn-") as folder:
        engines = {}
        for name, fuses in ((AS_WRITTEN, False), (FUSED, True)):
            plan = edgeattn.build(path, Path(folder, f"{name}.engine"), engine="cpu", fuse=fuses)
            engines[name] = edgeattn.load(plan, threads=threads)
        written, fused = engines.values()
        inputs = {written.inputs[0].name: model.example}
        outputs = [list(engine.run(inputs).values()) for engine in (written, fused)]
        same = _nodes(written.graph) == _nodes(fused.graph)
        found: Result = {"error": relative_error(*outputs), "same": same}
        if seconds is None:
            return found
        found["threads"] = threads
        if not same:
            found |= _timed({name: each.bind(inputs) for name, each in engines.items()}, seconds)
        return found


def _nodes(graph: bytes) -> list[bytes]:
    """Serialise the nodes of a graph, for comparison; weights go by their names."""
    return [node.SerializeToString() for node in onnx.load_from_string(graph).graph.node]


def _timed(queries: dict[str, BoundQuery], seconds: float) -> Result:
    measured = measure_interleaved(queries, iterations=_LEAST_RUNS, duration_s=seconds)
    samples = {name: each.latency_ms for name, each in measured.items()}
    stats = {name: LatencyStats.from_samples(each) for name, each in samples.items()}
    return {
        "ratio": stats[AS_WRITTEN].p50_ms / stats[FUSED].p50_ms,
        "ratio_interval": ratio_interval(samples[AS_WRITTEN], samples[FUSED]),
        "latency": {name: each.to_dict() for name, each in stats.items()},
    }


def describe(result: Mapping[str, Any]) -> str:
    """Write a model's outcome down for the terminal."""
    if "failed" in result:
        return f"failed: {result['failed']}"
    fusion, engines = result["fusion"], result["engines"]
    parts = [
        f"{fusion['fused']:3} of {fusion['found']:2} fused, {fusion['nodes_before']:5} -> "
        f"{fusion['nodes_after']:4} nodes, error {engines['error']:.1e}, "
        f"{fusion['seconds']:4.1f} s, {fusion['peak_mib']:5.0f} MiB"
    ]
    if "ratio" in engines:
        parts.append(f"{engines['ratio']:.2f}x as fast")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
