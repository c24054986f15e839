"""The graphs of a case: exported, calibrated and quantized once for all cases that share them.

This is work for the machine that has torch and the data; boards get the graphs alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeattn.artifacts import manifest_path, read_manifest
from edgeattn.calibration.collect import calibrate
from edgeattn.calibration.quantize import quantize
from edgeattn.calibration.table import CalibTable
from edgeattn.errors import SpecError
from edgeattn.graph.export import export
from edgeattn.graph.files import input_specs, load_graph
from edgeattn.inputs import Dim, InputSpec
from edgeattn.models.registry import get_entry
from edgeattn.sweep.cases import Case
from edgeattn.sweep.spec import FLOAT

Step = Callable[[str], None]


def prepare(case: Case, folder: Path, step: Step) -> dict[str, str]:
    """Make the graphs of a case, or find those that another case has left.

    Args:
        case: The case.
        folder: Where graphs and tables are kept.
        step: Called with the name of each step before it begins.

    Returns:
        Paths: `reference`, the float graph; `graph`, the one to build; `table`, if it has one.

    Raises:
        EdgeAttnError: As the steps do.
    """
    asked = case.parameters
    folder.mkdir(parents=True, exist_ok=True)
    if "graph" in case.files:
        reference = Path(case.files["graph"])
    else:
        reference = _exported(case, folder, step)
    if asked["precision"] == FLOAT:
        return {"reference": str(reference), "graph": str(reference)}
    # A table belongs to its graph, so the graph's key begins its name.
    stem = reference.stem
    if "graph" in case.files:
        stem = f"{stem}-{_key(case.parents['graph'])}"
    found = {"reference": str(reference)}
    if "int8" in asked["precision"]:
        key = _key(asked["calibration"], *map(case.parents.get, ("calibration", "recipe")))
        stem = f"{stem}-{key}"
        table = folder / f"{stem}.calib.json"
        if table.exists():
            CalibTable.load(table)
        else:
            step("calibrate")
            options = dict(asked["calibration"])
            data = case.files.get("calibration", options.pop("data", None))
            options.pop("data", None)
            calibrate(reference, data, table, **options)
        found["table"] = str(table)
    recipe = asked["build"].get("recipe", "linear")
    typed = folder / f"{stem}.{recipe}.{asked['precision']}.onnx"
    if not _is_whole(typed):
        step("quantize")
        is_int8 = "table" in found
        quantize(
            reference,
            typed,
            table=found["table"] if is_int8 else None,
            precision=asked["precision"],
            recipe=recipe,
        )
    return found | {"graph": str(typed)}


def sized_inputs(
    inputs: tuple[InputSpec, ...], batch_size: int, resolution: str
) -> tuple[InputSpec, ...]:
    """Give inputs the sizes of a case.

    Args:
        inputs: As the model has them; a name is a free size.
        batch_size: Of axis 0; 0 for the model's own, 1 where that is free.
        resolution: Of the axes from 2 on, `224x224`; empty for the model's own.

    Raises:
        SpecError: If no input has such axes, or a size stays free.
    """
    sizes = [int(size) for size in resolution.split("x") if size]
    sized = []
    for spec in inputs:
        shape: list[Dim] = list(spec.shape)
        if sizes and len(shape) == 2 + len(sizes):
            shape[2:] = sizes
        if shape and (batch_size or isinstance(shape[0], str)):
            shape[0] = batch_size or 1
        sized.append(replace(spec, shape=tuple(shape)))
        if free := [size for size in shape if isinstance(size, str)]:
            raise SpecError(
                f"the input {spec.name} has no size for {free[0]}",
                "give resolutions with as many sizes as the input has axes after the second",
            )
    if sizes and not any(len(spec.shape) == 2 + len(sizes) for spec in inputs):
        raise SpecError(f"no input has the axes of the resolution {resolution}")
    return tuple(sized)


def case_shapes(case: Case, graph: Path) -> tuple[dict[str, tuple[int, ...]], bool]:
    """Give the shapes that a case runs a graph at, and whether the graph leaves any of them open.

    Raises:
        SpecError: If the graph has another fixed size than the case.
    """
    inputs = input_specs(load_graph(graph))
    asked = case.parameters
    sized = sized_inputs(inputs, asked["batch_size"], asked["resolution"])
    for spec, wanted in zip(inputs, sized, strict=True):
        for has, want in zip(spec.shape, wanted.shape, strict=True):
            if isinstance(has, int) and has != want:
                raise SpecError(
                    f"the input {spec.name} of {graph.name} is fixed at {spec.shape}; the case "
                    f"wants {wanted.shape}",
                    "export the graph with --dynamic, or name the model in place of a graph",
                )
    is_open = any(isinstance(size, str) for spec in inputs for size in spec.shape)
    return {s.name: tuple(int(size) for size in s.shape) for s in sized}, is_open


def _exported(case: Case, folder: Path, step: Step) -> Path:
    asked = case.parameters
    inputs = tuple(InputSpec(tuple(shape), name) for name, shape in asked["inputs"])
    if not inputs:
        inputs = (get_entry(asked["source"]).input,)
    if not asked["dynamic"]:
        inputs = sized_inputs(inputs, asked["batch_size"], asked["resolution"])
    shapes = [[spec.name, list(spec.shape)] for spec in inputs]
    weights = [case.parents.get(role) for role in ("weights", "shipped_weights")]
    key = _key(asked["source"], shapes, asked["dynamic"], weights)
    path = folder / f"{re.sub(r'[^A-Za-z0-9_]+', '-', asked['model'])}-{key}.onnx"
    if not _is_whole(path):
        step("export")
        file = case.files.get("weights")
        export(asked["source"], inputs, path, weights=file, dynamic=asked["dynamic"])
    return path


def _is_whole(path: Path) -> bool:
    """Tell whether a graph is there: its manifest, which is written last, vouches for it.

    Raises:
        ArtifactError: If the graph is not the one that the manifest describes.
    """
    if not manifest_path(path).exists():
        return False
    read_manifest(path)
    return True


def _key(*values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
