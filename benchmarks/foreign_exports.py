"""Public models as ONNX files, each exported once and kept, with what went wrong on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.foreign_models import PublicModel
from edgeattn.artifacts import tool_versions
from edgeattn.errors import first_line
from edgeattn.graph.verify import relative_error, run_graph

OPSET = 18
# Rounding of deep random networks; beyond this a graph is not the model.
MAX_RELATIVE_ERROR = 1e-3

Export = dict[str, Any]


def exported(model: PublicModel, cache: Path) -> tuple[Path, Export]:
    """Give a model's graph, from the cache where the same model was exported by the same tools.

    PyTorch's newer exporter is asked first, then the one that it replaces (TorchScript); with
    transformers' own choice of attention first, then with that written out. What is kept is the
    first graph that ONNX Runtime runs to PyTorch's numbers.

    Args:
        model: The model.
        cache: Folder of graphs.

    Returns:
        The file, and how it came about: `exporter`, `attention` (of transformers; else empty),
        `trouble` (each way that failed, in words), `seconds`, `error` (relative, to PyTorch),
        `nodes`, `opset`.

    Raises:
        RuntimeError: If no way leads to a graph that computes what the model does.
    """
    path, notes = cache / f"{model.name}.onnx", cache / f"{model.name}.json"
    key = {"model": repr(model), "tools": _tools()}
    if path.exists() and notes.exists():
        known = json.loads(notes.read_text())
        if known["key"] == key:
            return path, known["export"]
    cache.mkdir(parents=True, exist_ok=True)
    notes.unlink(missing_ok=True)  # it would vouch for a file half written
    export = _export(model, path)
    notes.write_text(json.dumps({"key": key, "export": export}, indent=1))
    return path, export


def _tools() -> dict[str, str]:
    """Name the versions that shape a graph."""
    from importlib.metadata import version

    libraries = {name: version(name) for name in ("torch", "transformers", "timm", "torchvision")}
    known = tool_versions()
    return libraries | {name: known[name] for name in ("onnx", "onnxscript") if name in known}


def _ways(model: PublicModel) -> Iterator[tuple[str, str | None]]:
    attentions = (None, "eager") if model.library == "transformers" else (None,)
    for exporter in ("dynamo", "script"):
        for attention in attentions:
            yield exporter, attention


def _export(model: PublicModel, path: Path) -> Export:
    import onnx
    import torch

    from tests.foreign_graphs import export

    trouble: list[str] = []
    example = torch.from_numpy(model.example)
    for exporter, attention in _ways(model):
        way = exporter + (f", {attention} attention" if attention else "")
        try:
            module = model.build(attention)
            with torch.inference_mode():
                expected = [tensor.numpy() for tensor in module(example)]
            start = time.perf_counter()
            graph = export(module, example, exporter, opset=OPSET)
            seconds = time.perf_counter() - start
            outputs = run_graph(graph, {graph.graph.input[0].name: model.example})
        except Exception as err:  # whatever the library, its exporter or ONNX Runtime raise
            trouble.append(f"{way}: {_in_words(err)}")
            continue
        error = relative_error(expected, outputs)
        if error > MAX_RELATIVE_ERROR:
            trouble.append(f"{way}: other numbers than PyTorch's, {error:.1e} relative")
            continue
        onnx.save(graph, path)
        return {
            "exporter": exporter,
            "attention": attention or "",
            "trouble": trouble,
            "seconds": seconds,
            "error": error,
            "nodes": len(graph.graph.node),
            "opset": OPSET,
        }
    raise RuntimeError(f"no exporter: {'; '.join(trouble)}")


def _in_words(err: BaseException, most: int = 160) -> str:
    line = first_line(err)
    return line if len(line) <= most else f"{line[: most - 1]}…"
