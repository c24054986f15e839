"""Make a table from scales that another tool found: TensorRT's calibration cache, a Q/DQ graph.

Scales are matched by the names of tensors, through nodes that only move values: a scale of the
output of a Reshape is one of its input. What does not match is listed in the table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from edgeattn.artifacts import Manifest, Parent, check_writable, sha256_of_file
from edgeattn.calibration.float_graph import load_float_graph
from edgeattn.calibration.table import IMPORTED, CalibTable, TensorRange
from edgeattn.calibration.trt_cache import TrtCalibCache
from edgeattn.errors import TableError
from edgeattn.graph.constants import Constants
from edgeattn.graph.files import graph_sha256, load_graph
from edgeattn.graph.nodes import range_keepers
from edgeattn.graph.placement import RECIPES, Recipe, place_qdq
from edgeattn.graph.qdq_scales import ActivationScale, activation_scales
from edgeattn.graph.weights_match import other_weights

_log = logging.getLogger(__name__)


def table_from_trt_cache(
    graph: Path | str, cache: Path | str, output: Path | str | None = None
) -> Path:
    """Import TensorRT's calibration cache as a graph's table.

    The cache does not say which weights and data it was made of: that it fits is the user's word.

    Args:
        graph: The float graph.
        cache: The file that a calibrator of TensorRT wrote.
        output: The table to write; by default `NAME.calib.json` beside `NAME.onnx`.

    Returns:
        Path of the table. Its report lists the recipes that it suffices for, the tensors of the
        graph that got no scale, and those of the cache that the graph does not have.

    Raises:
        ArtifactError: If a file is missing or the output's folder is not writable.
        GraphError: If the graph cannot be read or has nothing to quantize.
        TableError: If the cache is malformed or fits no tensor of the graph.
    """
    cache = Path(cache)
    importing = _Import(Path(graph), cache, output)
    read = TrtCalibCache.load(cache)
    found = [ActivationScale((name,), scale, "") for name, scale in read.quant_scales.items()]
    matched = importing.match(found)
    _log.warning("%s does not say of which weights and data it was made", cache)
    return importing.save(
        matched,
        "trt_calib_cache",
        sha256_of_file(cache),
        options={"header": read.header},
    )


def table_from_qdq(
    graph: Path | str, quantized: Path | str, output: Path | str | None = None
) -> Path:
    """Import the scales of a quantized graph's activations as the table of its float graph.

    Args:
        graph: The float graph.
        quantized: The graph that a tool made of it, with Q/DQ pairs.
        output: The table to write; by default `NAME.calib.json` beside `NAME.onnx`.

    Returns:
        Path of the table. Its report lists the recipes that it suffices for, the tensors of the
        graph that got no scale, and those of the quantized one that the graph does not have; it
        counts the weights that were compared.

    Raises:
        ArtifactError: If a file is missing or the output's folder is not writable.
        GraphError: If a graph cannot be read or has nothing to quantize.
        TableError: If a tensor is not rounded as symmetric INT8 with one scale, the weights are
            others, or no tensor of the graph has a scale.
    """
    quantized = Path(quantized)
    importing = _Import(Path(graph), quantized, output)
    theirs = load_graph(quantized)
    found = activation_scales(theirs)
    if not found:
        raise TableError(
            f"{quantized} rounds no activation: it has no QuantizeLinear node",
            "give a graph with Q/DQ pairs; ONNX Runtime calls that format QDQ",
        )
    differing, compared = other_weights(importing.model, theirs)
    if differing:
        raise TableError(
            f"{len(differing)} of {compared} weights of {quantized} are not those of {graph}, the "
            f"first is {differing[0]}",
            "give the float graph that was quantized",
        )
    if not compared:
        _log.warning("%s has no layer of %s by name: no weight was compared", quantized, graph)
    return importing.save(
        importing.match(found),
        "quantized_graph",
        graph_sha256(quantized),
        report={"weights_compared": compared},
    )


@dataclass(frozen=True)
class _Matched:
    """Scales that found their tensors.

    Attributes:
        scales: By the graph's own names, in its order.
        missing: Tensors of the graph that got none, though one of the recipes needs it.
        recipes: Recipes that need none of those.
        unknown: Tensors with a scale that the graph does not have.
        unused: Number of tensors with a scale that the graph has no use of.
    """

    scales: Mapping[str, float]
    missing: list[str]
    recipes: list[Recipe]
    unknown: list[str]
    unused: int


class _Import:
    """A graph whose table shall be made from a file.

    Args:
        graph: The float graph.
        source: The file, for messages.
        output: The table to write; `None` for the default.
    """

    def __init__(self, graph: Path, source: Path, output: Path | str | None) -> None:
        self._graph, self._source = graph, source
        self._output = graph.with_suffix(".calib.json") if output is None else Path(output)
        check_writable(self._output)
        self.model = load_float_graph(graph)
        self._needed = {recipe: place_qdq(self.model, recipe).activations for recipe in RECIPES}
        self._wanted = self._needed[RECIPES[-1]]  # each recipe adds to the one before it
        self._known = _tensors(self.model.graph)
        self._keepers = range_keepers(self.model.graph, Constants(self.model))

    def match(self, found: Iterable[ActivationScale]) -> _Matched:
        """Find the tensor of the graph that each scale is of.

        Raises:
            TableError: If a tensor that needs a scale has several, or one of another kind, or
                none has any.
        """
        candidates: dict[str, dict[str, float]] = {name: {} for name in self._wanted}
        unknown, unused = [], 0
        for entry in found:
            name = next((name for name in entry.names if name in self._known), None)
            root = self._root(name) if name else ""
            if name is None:
                unknown.append(entry.names[0])
            elif root not in candidates:
                unused += 1
            else:
                self._check(entry)
                before = candidates[root].setdefault(name, entry.quant_scale)
                self._check_agreement(name, before, name, entry.quant_scale)
        scales = {root: self._choose(root, given) for root, given in candidates.items() if given}
        if not scales:
            raise TableError(
                f"{self._source} has no scale of any of the {len(self._wanted)} tensors that "
                f"{self._graph} needs one of; the first is {self._wanted[0]}",
                "export both from one model: tensors are matched by name",
            )
        missing = [name for name in self._wanted if name not in scales]
        recipes = [name for name, needed in self._needed.items() if scales.keys() >= set(needed)]
        return _Matched(scales, missing, recipes, unknown, unused)

    def save(
        self,
        matched: _Matched,
        role: str,
        sha256: str,
        *,
        options: Mapping[str, Any] | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the table, and warn of what it lacks.

        Args:
            matched: Its scales.
            role: What the file is among the table's parents.
            sha256: Hash of the file.
            options: What else the manifest says of the import.
            report: What else the import found.

        Raises:
            ArtifactError: If the folder is not writable.
        """
        manifest = Manifest(
            kind="table",
            parents={
                "graph": Parent(self._graph.name, graph_sha256(self._graph)),
                role: Parent(self._source.name, sha256),
            },
            options={"imported_from": role, **(options or {})},
            report={
                "tensors": len(matched.scales),
                "recipes": matched.recipes,
                "missing": matched.missing,
                "unknown": matched.unknown,
                "unused": matched.unused,
                **(report or {}),
            },
        )
        if matched.missing:
            _log.warning(
                "%s has no scale of %d of the %d tensors that INT8 can need one of; "
                "recipes that it suffices for: %s",
                self._source,
                len(matched.missing),
                len(self._wanted),
                ", ".join(matched.recipes) or "none",
            )
        ranges = {name: TensorRange.from_quant_scale(s) for name, s in matched.scales.items()}
        return CalibTable(IMPORTED, ranges, manifest).save(self._output)

    def _root(self, name: str) -> str:
        while name in self._keepers:
            name = self._keepers[name].input[0]
        return name

    def _check(self, entry: ActivationScale) -> None:
        obstacle = entry.obstacle
        if not obstacle:
            try:
                TensorRange.from_quant_scale(entry.quant_scale)
            except ValueError:
                obstacle = f"its scale is {entry.quant_scale:g}"
        if obstacle:
            raise TableError(
                f"the tensor {entry.names[0]} of {self._source} is not rounded as symmetric INT8 "
                f"with one scale: {obstacle}",
                "quantize with signed, symmetric activations and a scale per tensor",
            )

    def _choose(self, root: str, given: Mapping[str, float]) -> float:
        """Take the tensor's own scale; else that of its copies, if they agree."""
        if root in given:
            return given[root]
        first, *others = given
        for other in others:
            self._check_agreement(first, given[first], other, given[other])
        return given[first]

    def _check_agreement(self, a: str, scale_a: float, b: str, scale_b: float) -> None:
        if scale_a != scale_b:
            which = f"{a} has" if a == b else f"{a} and {b} hold the same values but have"
            raise TableError(
                f"{which} two scales in {self._source}: {scale_a:g} and {scale_b:g}",
                "TensorRT wants one scale per tensor; calibrate the graph instead",
            )


def _tensors(graph: onnx.GraphProto) -> set[str]:
    return {value.name for value in graph.input} | {
        name for node in graph.node for name in node.output if name
    }
