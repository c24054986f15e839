"""The cases of a sweep: the product of its axes, each with an id that follows from what it is."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeattn.artifacts import sha256_of_file
from edgeattn.errors import ArtifactError, SpecError
from edgeattn.graph.files import graph_sha256
from edgeattn.models.registry import get_entry
from edgeattn.profiling.modes import choose_mode
from edgeattn.sweep.spec import AXES, FLOAT, TENSORRT_OPTIONS, SweepSpec, SweptModel

_ID_LENGTH = 16


@dataclass(frozen=True)
class Case:
    """One engine to build and measure.

    Attributes:
        id: First digits of the sha256 of parameters and parents: equal for equal cases, on any
            machine and in any sweep.
        parameters: Everything that is asked for, JSON values; paths as the sweep's file has them.
        parents: sha256 of the files that it is made from, by role.
        files: Where these are.
    """

    id: str
    parameters: Mapping[str, Any]
    parents: Mapping[str, str]
    files: Mapping[str, str]

    @property
    def label(self) -> str:
        """The values of the axes, for people: `mswin_nano int8 batch 8 cpu`."""
        named = self.parameters
        batch = f"batch {named['batch_size']}" if named["batch_size"] else ""
        words = (named["model"], named["precision"], batch, named["resolution"], named["engine"])
        return " ".join(w for w in (*words, named["options"], named["board"]) if w)


def expand(spec: SweepSpec) -> list[Case]:
    """Multiply out a sweep.

    Returns:
        The cases in the order of the axes, then those included; no two alike.

    Raises:
        ArtifactError: If a file is missing.
        ModelError: If the registry has no such model.
        SpecError: If two cases are the same, nothing is left, or a case cannot be: INT8 without
            calibration, options of another engine, a mode that is not for its engine.
    """
    hashes: dict[Path, str] = {}
    cases: dict[str, Case] = {}
    for values in _combinations(spec):
        case = _case(spec, values, hashes)
        if case.id in cases:
            raise SpecError(
                f"the case {case.label} is there twice",
                "an include repeats the product, or two names stand for the same thing",
            )
        cases[case.id] = case
    if not cases:
        raise SpecError("the sweep has no case: everything is excluded")
    return list(cases.values())


def _combinations(spec: SweepSpec) -> Iterator[dict[str, Any]]:
    for combination in itertools.product(*(spec.axes[axis] for axis in AXES)):
        values = dict(zip(AXES.values(), combination, strict=True))
        if not any(entry.items() <= values.items() for entry in spec.exclude):
            yield values
    first = {name: spec.axes[axis][0] for axis, name in AXES.items()}
    for entry in spec.include:
        yield {**first, **entry}


def _case(spec: SweepSpec, values: Mapping[str, Any], hashes: dict[Path, str]) -> Case:
    model, options = spec.models[values["model"]], spec.options[values["options"]]
    _check(model, values, options, spec.measure)
    calibration = dict(model.calibration if "int8" in values["precision"] else {})
    size = values["resolution"]
    if "data" in calibration:
        calibration["data"] = _sized(calibration["data"], size)
    parameters: dict[str, Any] = dict(values) | {
        "source": model.source,
        "weights": model.weights,
        "inputs": [[spec.name, list(spec.shape)] for spec in model.inputs],
        "dynamic": model.dynamic,
        "calibration": calibration,
        "accuracy": _sized(model.accuracy, size),
        "build": dict(options),
        "measure": dict(spec.measure),
    }
    recipe = calibration.get("recipe", "")
    named = {
        "graph": model.source if model.is_graph else "",
        "weights": model.weights,
        "calibration": calibration.get("data", ""),
        "recipe": recipe if recipe.endswith(".toml") else "",
        "accuracy": parameters["accuracy"],
    }
    files = {role: spec.folder / name for role, name in named.items() if name}
    if ":" in named["calibration"]:  # module:function
        del files["calibration"]
    parents = {role: _sha256(role, path, hashes) for role, path in files.items()}
    if shipped := _shipped_weights(model):
        parents["shipped_weights"] = _sha256("weights", shipped, hashes)
    # A name for options is a name: what they are counts.
    counted = {name: value for name, value in parameters.items() if name != "options"}
    text = json.dumps([counted, parents], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    paths = {role: str(path) for role, path in files.items()}
    return Case(digest[:_ID_LENGTH], parameters, parents, paths)


def _check(
    model: SweptModel,
    values: Mapping[str, Any],
    options: Mapping[str, Any],
    measure: Mapping[str, Any],
) -> None:
    engine, precision = values["engine"], values["precision"]
    choose_mode(measure.get("mode"), engine)
    if "int8" in precision and not model.calibration:
        raise SpecError(
            f"the precision {precision} needs calibration data for {model.name}",
            f'write calibration = {{ data = "images/" }} into [models.{model.name}]',
        )
    foreign = ("threads",) if engine == "tensorrt" else tuple(TENSORRT_OPTIONS)
    for name in foreign:
        if name in options:
            raise SpecError(
                f"the options {values['options']!r} have {name}, which the engine {engine} lacks",
                f"exclude the two together, or leave out {name}",
            )
    if "recipe" in options and precision == FLOAT:
        raise SpecError(
            f"the options {values['options']!r} have a recipe, and {FLOAT} quantizes nothing",
            "exclude the two together",
        )


def _shipped_weights(model: SweptModel) -> Path | None:
    is_named = not model.is_graph and ":" not in model.source
    entry = get_entry(model.source) if is_named else None
    return entry.weights if entry and not model.weights else None


def _sized(name: str, resolution: str) -> str:
    """Put a case's resolution into the name of its data."""
    return name.replace("{resolution}", resolution)


def _sha256(role: str, path: Path, hashes: dict[Path, str]) -> str:
    """Hash a file, weights of a graph included; of a folder the names and sizes of its files."""
    if path not in hashes:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            listing = [f"{file.relative_to(path)} {file.stat().st_size}" for file in files]
            hashes[path] = hashlib.sha256("\n".join(listing).encode()).hexdigest()
        elif not path.exists():
            raise ArtifactError(
                f"there is no file {path}, the sweep's {role}",
                "paths begin at the folder of the sweep's file",
            )
        else:
            hashes[path] = graph_sha256(path) if role == "graph" else sha256_of_file(path)
    return hashes[path]
