"""FP16 and BF16 in a graph: edgeattn's conversion beside those of other tools.

Four graphs, each as the others need it: `mswin_nano` with attention nodes, the same with attention
in standard operators, that in INT8, and a layer norm in single operators whose squares pass FP16's
range. A conversion is judged by what the converted graph says, each result rounded; ONNX Runtime's
own arithmetic, which does not round between nodes, stands beside it.

    python -m benchmarks.bench_half

`make peers` installs the other tools; without them their rows are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

import edgeattn
from benchmarks.half_tools import TOOLS
from benchmarks.processes import PEERS_PYTHON, ROOT
from benchmarks.rows import append_row
from edgeattn.demo import held_out
from edgeattn.graph.compare import sqnr_db
from edgeattn.graph.explicit_int8 import explicit_int8_faults
from edgeattn.graph.files import load_graph
from edgeattn.graph.op import attention_nodes
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.passes.emulate_half import emulate_half
from edgeattn.graph.passes.half import convert_to_half
from edgeattn.graph.shapes import infer_types
from edgeattn.graph.verify import run_graph
from edgeattn.models.registry import create_model, get_entry

_HALVES = {"fp16": "float16", "bf16": "bfloat16"}
_GUARDED = ("LayerNormalization", "ReduceMean", "Softmax")
_SAMPLES = 64

Arrays = Mapping[str, np.ndarray]

# A trained norm's input: values of some hundreds, whose squares are beyond 65,504.
_NORM = """
norm (float[n,64] x) => (float[n,64] y) {
    h = MatMul(x, w)
    mean = ReduceMean(h, axes)
    centred = Sub(h, mean)
    squares = Mul(centred, centred)
    variance = ReduceMean(squares, axes)
    raised = Add(variance, epsilon)
    deviation = Sqrt(raised)
    norm = Div(centred, deviation)
    scaled = Mul(norm, gain)
    y = MatMul(scaled, v)
}
"""


def norm_graph() -> tuple[onnx.ModelProto, Arrays]:
    """Make a layer norm between two linear layers, and inputs for it."""
    rng = np.random.default_rng(0)
    graph = onnx.parser.parse_graph(_NORM)
    weights = {
        "w": rng.standard_normal((64, 64)) * 300 / 8,
        "v": rng.standard_normal((64, 64)) / 8,
        "epsilon": np.array(1e-5),
        "gain": np.ones(64),
    }
    tensors = {name: array.astype(np.float32) for name, array in weights.items()}
    for name, array in (tensors | {"axes": np.array([-1])}).items():
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return model, {"x": rng.standard_normal((_SAMPLES, 64)).astype(np.float32)}


def graphs(folder: Path) -> dict[str, tuple[onnx.ModelProto, Arrays]]:
    """Make the graphs to convert, and inputs for each."""
    path = edgeattn.export(
        create_model("mswin_nano"), get_entry("mswin_nano").input, folder / "net.onnx", dynamic=True
    )
    inputs = {name: array[:_SAMPLES] for name, array in held_out()[0].items()}
    table = edgeattn.calibrate(path, recipe="mswin_nano", method="minmax")
    int8 = load_graph(edgeattn.quantize(path, table=table, recipe="attention"))
    model = load_graph(path)
    return {
        "attention nodes": (model, inputs),
        "standard operators": (decompose(model), inputs),
        "INT8, standard operators": (decompose(int8), inputs),
        "large layer norm": norm_graph(),
    }


def convert(tool: str, half: str, model: onnx.ModelProto, inputs: Arrays) -> dict[str, Any]:
    """Convert a graph in the tool's own environment; gives its `model`, or why it `failed`."""
    if tool == "edgeattn":
        return {"model": convert_to_half(model, _HALVES[half])[0]}  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        source, target, sample = (Path(folder, name) for name in ("in.onnx", "out.onnx", "x.npz"))
        onnx.save(model, source)
        arguments = [tool.removesuffix(" with data"), half, source, target]
        if tool.endswith(" with data"):
            np.savez(sample, **inputs)
            arguments.append(sample)
        worker = ROOT / "benchmarks" / "half_tools.py"
        command = [PEERS_PYTHON, worker, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        lines = done.stdout.splitlines() or ['{"failed": "it died"}']
        result: dict[str, Any] = json.loads(lines[-1])
        return result if "failed" in result else result | {"model": onnx.load(target)}


def judge(model: onnx.ModelProto, converted: onnx.ModelProto, inputs: Arrays) -> dict[str, Any]:
    """Say what a conversion did to a graph."""
    types = infer_types(converted)
    guarded = [n for n in converted.graph.node if n.op_type in _GUARDED]
    tables = [name for node in attention_nodes(converted) for name in node.input[1:]]
    expected = run_graph(model, inputs)[0]

    def against(lower: Callable[[onnx.ModelProto], onnx.ModelProto]) -> float | str:
        try:
            return round(sqnr_db(expected, run_graph(lower(converted), inputs)[0]), 1)
        except Exception as err:  # onnxruntime's errors share no class
            return f"does not run ({type(err).__name__})"

    try:
        onnx.checker.check_model(decompose(converted), full_check=True)
        invalid = ""
    except Exception as err:  # the checker's and shape inference's errors share no class
        invalid = str(err).splitlines()[0][:120]
    return {
        "casts": sum(node.op_type == "Cast" for node in converted.graph.node),
        "guarded": sum(types[node.input[0]].element == TensorProto.FLOAT for node in guarded),
        "to_guard": len(guarded),
        "tables_float32": all(types[name].element == TensorProto.FLOAT for name in tables),
        "invalid": invalid,
        "sqnr_db": against(lambda graph: emulate_half(decompose(graph))),
        "onnxruntime_sqnr_db": against(decompose),
        "tensorrt_faults": len(explicit_int8_faults(converted)),
    }


def main() -> None:
    """Convert each graph with each tool; print a table and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    tools = ["edgeattn"]
    if PEERS_PYTHON.exists():
        tools += [*TOOLS, "modelopt with data"]
    else:
        print(f"{PEERS_PYTHON} is missing: run `make peers` to compare with other tools\n")
    print("| graph | type | tool | SQNR dB | under ONNX Runtime | float32 guards | Casts | |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, inputs) in graphs(Path(folder)).items():
            for half in _HALVES:
                for tool in tools:
                    found = convert(tool, half, model, inputs)
                    converted = found.pop("model", None)
                    if converted is not None:
                        found |= judge(model, converted, inputs)
                    append_row("half", {"graph": name, "type": half, "tool": tool}, found)
                    print(_line(name, half, tool, found), flush=True)


def _line(graph: str, half: str, tool: str, found: Mapping[str, Any]) -> str:
    if "failed" in found:
        return f"| {graph} | {half} | {tool} | | | | | {found['failed']} |"
    remarks = [found["invalid"]] if found["invalid"] else []
    remarks += [] if found["tables_float32"] else ["tables of attention are no longer float32"]
    remarks += [f"{found['tensorrt_faults']} INT8 faults"] if found["tensorrt_faults"] else []
    cells = [graph, half, tool, found["sqnr_db"], found["onnxruntime_sqnr_db"]]
    cells += [f"{found['guarded']} of {found['to_guard']}", found["casts"], "; ".join(remarks)]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
