"""Graphs to quantize, with real samples to calibrate on and others to judge by.

The shipped models have their own data. The models of random weights get the same digits, enlarged
to their maps, or the same recordings, stretched: what they answer means nothing, but their
activations are those of real inputs. `hf_swin_tiny` is the Swin-T of Hugging Face, a graph in
plain operators, which every tool can read as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor, nn

import edgeattn
from benchmarks.bench_cpu_engine import hugging_face_swin
from edgeattn.arrays import LABEL_KEY, read_arrays
from edgeattn.calibration.data import open_batches
from edgeattn.calibration.recipe import load_recipe, recipe_names
from edgeattn.graph.files import input_specs, load_graph
from edgeattn.graph.op import attention_nodes
from edgeattn.graph.passes.decompose import decompose
from edgeattn.inputs import ImagePreprocess, InputSpec
from edgeattn.models.registry import get_entry, model_names

HF_SWIN = "hf_swin_tiny"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Int8Case:
    """A graph with its data.

    Attributes:
        name: The model.
        graph: With one node per attention, if the model has such.
        plain: The same in standard operators: for tools that do not know the node.
        calibration: `[samples, ...]`, to calibrate with.
        held_out: `[samples, ...]`, to judge by; none of them is in `calibration`.
        labels: `[samples]`; `None` where the weights are random.
        has_fixed_batch: Whether the graph takes one sample at a time.
    """

    name: str
    graph: Path
    plain: Path
    calibration: Floats
    held_out: Floats
    labels: NDArray[np.integer] | None
    has_fixed_batch: bool


class _Logits(nn.Module):
    """A module of Hugging Face that returns a tensor."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.swin = module

    def forward(self, images: Tensor) -> Tensor:
        """Map `[B, 3, 224, 224]` to `[B, 1000]`."""
        logits: Tensor = self.swin(images).logits
        return logits


def make_case(name: str, folder: Path, *, calibration: int, held_out: int) -> Int8Case:
    """Export a model and read its data.

    Args:
        name: A model of the registry, or `hf_swin_tiny`.
        folder: Where the graphs go.
        calibration: Most samples to calibrate with.
        held_out: Most samples to judge by.
    """
    graph = export_graph(name, folder)
    plain = graph
    model = load_graph(graph)
    if attention_nodes(model):
        plain = graph.with_suffix(".plain.onnx")
        onnx.save(decompose(model), plain)
    (spec,) = input_specs(model)
    source = name if name in recipe_names() else _lender(spec)
    entry = get_entry(source)
    samples, (held, labels) = _calibration(source), _held_out(source)
    samples, held, labels = samples[:calibration], spread(held, held_out), spread(labels, held_out)
    if name == source:
        samples = samples[: load_recipe(name).samples]
    else:
        reshape = _enlarged if len(spec.shape) == 4 else _stretched
        samples = reshape(samples, spec, entry.input.preprocess)
        held = reshape(held, spec, entry.input.preprocess)
    fixed = isinstance(spec.shape[0], int)
    return Int8Case(name, graph, plain, samples, held, labels if name == source else None, fixed)


def case_names() -> list[str]:
    """List the models: those of the registry and Hugging Face's Swin-T."""
    return [*model_names(), HF_SWIN]


def export_graph(name: str, folder: Path) -> Path:
    """Export a model: with a free batch where it is small, for one sample where it is not."""
    if name != HF_SWIN:
        path = folder / f"{name}.onnx"
        return edgeattn.export(name, output=path, dynamic=name in recipe_names())
    path = folder / f"{HF_SWIN}.onnx"
    # Its preprocessor normalises as that of our models of this size does.
    return edgeattn.export(_Logits(hugging_face_swin()), get_entry("mswin_tiny").input, path)


def spread(array: NDArray, count: int) -> NDArray:
    """Take so many rows, evenly spread: the held-out sets are sorted by class."""
    if count >= len(array):
        return array
    return array[np.arange(count) * len(array) // count]


def _lender(spec: InputSpec) -> str:
    """Name the shipped model whose data a model of random weights gets."""
    return "mswin_nano" if len(spec.shape) == 4 else "msseq_nano"


def _calibration(name: str) -> Floats:
    batches = list(open_batches(load_recipe(name).data, [get_entry(name).input]))
    return np.concatenate([batch["input"] for batch in batches])


def _held_out(name: str) -> tuple[Floats, NDArray[np.integer]]:
    """Read the samples that lie beside a recipe's data."""
    arrays = read_arrays(Path(load_recipe(name).data).parent / "heldout.npz")
    return arrays["input"], arrays[LABEL_KEY]


def _enlarged(images: Floats, spec: InputSpec, before: ImagePreprocess | None) -> Floats:
    """Repeat the pixels of grey images until they fill a map, `[N, 1, h, w] -> [N, C, H, W]`."""
    _, channels, height, width = (int(size) for size in spec.shape)
    if before is not None:
        images = images * np.float32(before.std[0]) + np.float32(before.mean[0])
    rows, cols = -(-height // images.shape[2]), -(-width // images.shape[3])
    images = images.repeat(rows, axis=2).repeat(cols, axis=3)[:, :, :height, :width]
    images = images.repeat(channels, axis=1)
    if spec.preprocess is not None:
        mean, std = (np.float32(x) for x in (spec.preprocess.mean, spec.preprocess.std))
        images = (images - mean[:, None, None]) / std[:, None, None]
    return np.ascontiguousarray(images, np.float32)


def _stretched(signals: Floats, spec: InputSpec, before: ImagePreprocess | None) -> Floats:
    """Interpolate signals to another length, `[N, C, t] -> [N, C, T]`."""
    length = int(spec.shape[2])
    at = np.linspace(0, signals.shape[2] - 1, length)
    flat = signals.reshape(-1, signals.shape[2])
    known = np.arange(signals.shape[2])
    stretched = np.stack([np.interp(at, known, row) for row in flat])
    return stretched.reshape(*signals.shape[:2], length).astype(np.float32)
