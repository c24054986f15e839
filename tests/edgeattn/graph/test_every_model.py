"""Every model of the registry, exported static and dynamic: ONNX Runtime gives torch's numbers.

Each at the size it is made for, and at two that no patch, window or stride divides. `-s` prints
the errors as a table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import edgeattn
from edgeattn.graph.files import load_graph
from edgeattn.graph.verify import relative_error, run_graph
from edgeattn.models.registry import create_model, get_entry, model_names

MAX_RELATIVE_ERROR = 1e-4

# What follows the channels in the registry's input, and two odd sizes beside it.
SIZES = {
    (28, 28): ((28, 28), (23, 37), (31, 19)),
    (224, 224): ((224, 224), (190, 251), (257, 229)),
    (100,): ((100,), (77,), (131,)),
    (1000,): ((1000,), (777,), (1301,)),
}
BATCHES = (1, 3, 2)  # of a dynamic graph, by size


def _size(name: str) -> tuple[int, ...]:
    return tuple(int(dim) for dim in get_entry(name).input.shape[2:])


def _trained(name: str) -> nn.Module:
    """Build a model in which nothing is multiplied by its initial 0 or 1, as after training."""
    model = create_model(name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.2)
    return model


class Exports:
    """Exports a model at a size, or dynamically for all sizes; keeps the last graph, all errors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: tuple[str, tuple[int, ...] | None] | None = None
        self.errors: list[tuple[str, str, str, float]] = []

    def graph(self, name: str, size: tuple[int, ...] | None) -> onnx.ModelProto:
        if self.last != (name, size):
            spec = edgeattn.InputSpec((*get_entry(name).input.shape[:2], *(size or _size(name))))
            edgeattn.export(_trained(name), spec, self.path, dynamic=size is None)
            self.last = (name, size)
        return load_graph(self.path)


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> Iterator[Exports]:
    done = Exports(tmp_path_factory.mktemp("exports") / "net.onnx")
    yield done
    rows = [f"| {name} | {form} | {shape} | {e:.1e} |" for name, form, shape, e in done.errors]
    table = ["", "| model | form | input | relative error |", "|---|---|---|---|", *rows, ""]
    sys.stdout.write("\n".join(table))


def _cases() -> Iterator[object]:
    for name in model_names():
        for form in ("dynamic", "static"):
            for index, size in enumerate(SIZES[_size(name)]):
                # One dynamic export serves three sizes; that is what the daily run can afford.
                daily = name.endswith("_nano") and form == "dynamic"
                yield pytest.param(
                    name,
                    form,
                    (BATCHES[index] if form == "dynamic" else 1, *size),
                    id=f"{name}-{form}-{'x'.join(map(str, size))}",
                    marks=() if daily else pytest.mark.slow,
                )


@pytest.mark.parametrize(("name", "form", "batch_and_size"), list(_cases()))
def test_onnx_runtime_gives_the_numbers_of_torch(exports, name, form, batch_and_size):
    batch, *size = batch_and_size
    graph = exports.graph(name, None if form == "dynamic" else tuple(size))
    assert graph.graph.node
    shape = (batch, int(get_entry(name).input.shape[1]), *size)
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    with torch.no_grad():
        expected = _trained(name)(torch.from_numpy(x)).numpy()
    error = relative_error([expected], run_graph(graph, {"input": x}))
    exports.errors.append((name, form, "x".join(map(str, shape)), error))
    assert error <= MAX_RELATIVE_ERROR
