"""The file of a sweep: which models, precisions, sizes, engines and options to multiply out.

The reader is strict: a key that it does not know, a value of another type, a name that nothing
defines, each is an error that names the place. A sweep runs for hours; a typing error shall not
show at its end.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from edgeattn.artifacts import open_for_reading
from edgeattn.calibration.quantize import PRECISIONS
from edgeattn.engine.base import near_misses
from edgeattn.errors import ArtifactError, SpecError
from edgeattn.graph.placement import RECIPES
from edgeattn.inputs import InputSpec
from edgeattn.profiling.modes import MODES

FLOAT = "fp32"
ENGINES = ("cpu", "tensorrt")

# What a case is of: the key in the file, and in cases, includes and excludes.
AXES = {
    "models": "model",
    "precisions": "precision",
    "batch_sizes": "batch_size",
    "resolutions": "resolution",
    "engines": "engine",
    "options": "options",
    "boards": "board",
}
# In place of an axis that is left out: the model's own size, no option, any board.
_DEFAULTS: dict[str, tuple[Any, ...]] = {
    "precisions": (FLOAT,),
    "batch_sizes": (0,),
    "resolutions": ("",),
    "engines": ("cpu",),
    "options": ("",),
    "boards": ("",),
}
_CALIBRATION = {
    "data": str,
    "recipe": str,
    "method": str,
    "percentile": float,
    "samples": int,
    "seed": int,
    "random": int,
}
# Parameters of edgeattn.profile.
MEASURE = {
    "iterations": int,
    "duration_s": float,
    "warm_up_ms": float,
    "settle_s": float,
    "mode": str,
    "streams": int,
    "board": bool,
    "idle_s": float,
    "lock_clocks": bool,
    "layers": bool,
    "sustained_minutes": float,
}
_AT_LEAST_ONE = ("iterations", "streams")
# Parameters of edgeattn.build for any engine.
BUILD_OPTIONS = {"global_attention": bool, "autotune_attention": bool}
_CPU_OPTIONS = {"threads": int}
_QUANTIZE_OPTIONS = {"recipe": str}
# Fields of TensorRtOptions, then of TensorRtRequest.
TENSORRT_BUILDER_OPTIONS = {
    "workspace_mib": int,
    "optimization_level": int,
    "max_tactics": int,
    "avg_timing": int,
    "tiling": str,
    "max_aux_streams": int,
    "hardware_compatibility": str,
    "version_compatible": bool,
    "sparsity": bool,
    "tf32": bool,
    "dla_core": int,
    "allow_gpu_fallback": bool,
}
_TENSORRT_REQUEST_OPTIONS = {
    "attention": str,
    "require_precision": str,
}
TENSORRT_OPTIONS = TENSORRT_BUILDER_OPTIONS | _TENSORRT_REQUEST_OPTIONS
_WORDS = {str: "a text", int: "an integer", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class SweptModel:
    """A model of a sweep.

    Attributes:
        name: What the sweep calls it.
        source: A model of the registry, `module:callable`, or an ONNX file.
        weights: File to fill it from, as written; empty for its own.
        inputs: Its inputs, where the source does not tell.
        dynamic: Whether one graph of free sizes serves all batch sizes and resolutions.
        calibration: What `edgeattn.calibrate` is given, as far as the file says.
        accuracy: A `.npz` of samples, with labels if there are any, as written; empty for random
            samples.
    """

    name: str
    source: str
    weights: str = ""
    inputs: tuple[InputSpec, ...] = ()
    dynamic: bool = False
    calibration: Mapping[str, Any] = field(default_factory=dict)
    accuracy: str = ""

    @property
    def is_graph(self) -> bool:
        """Tell whether the source is an ONNX file."""
        return self.source.lower().endswith(".onnx")


@dataclass(frozen=True)
class SweepSpec:
    """A sweep, as its file describes it.

    Attributes:
        folder: Where the file stands; what it names is found from there.
        models: By name.
        axes: Values by axis, each of `AXES` present.
        options: Build options by name; `""` has none.
        measure: What `edgeattn.profile` is given.
        include: Cases besides the product; an axis left out takes its first value.
        exclude: What a case must not be: all of one entry's values at once.
    """

    folder: Path
    models: Mapping[str, SweptModel]
    axes: Mapping[str, tuple[Any, ...]]
    options: Mapping[str, Mapping[str, Any]]
    measure: Mapping[str, Any]
    include: tuple[Mapping[str, Any], ...]
    exclude: tuple[Mapping[str, Any], ...]


def read_spec(path: Path | str) -> SweepSpec:
    """Read the file of a sweep.

    Raises:
        ArtifactError: If it is missing or not TOML.
        SpecError: If a key is unknown or missing, or a value is not what it must be.
    """
    path = Path(path)
    with open_for_reading(path) as stream:
        try:
            values = tomllib.load(stream)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
            raise ArtifactError(f"{path} is not TOML: {err}", "see docs/sweep.md") from err
    try:
        return _parse(values, path.absolute().parent)
    except SpecError as err:
        raise SpecError(f"{path}: {err.message}", err.hint) from err


def _parse(values: Mapping[str, Any], folder: Path) -> SweepSpec:
    top = ("axes", "models", "options", "measure", "include", "exclude")
    _refuse_unknown(values, top, "the file")
    if not values.get("axes"):
        raise SpecError("there is no table [axes]", 'it begins with models = ["mswin_nano"]')
    tables = {name: _table(values.get(name, {}), f"[{name}]") for name in top[:4]}
    none: dict[str, dict[str, Any]] = {"": {}}
    options = none | {name: _options(name, v) for name, v in tables["options"].items()}
    axes = _axes(tables["axes"])
    models = {name: _model(name, tables["models"].get(name, {})) for name in axes["models"]}
    _refuse_unknown(tables["models"], models, "[models]")
    _refuse_undefined(axes["options"], options)
    return SweepSpec(
        folder=folder,
        models=models,
        axes=axes,
        options=options,
        measure=_measure(tables["measure"]),
        include=_entries(values.get("include", []), "include", axes, options),
        exclude=_entries(values.get("exclude", []), "exclude", axes, options),
    )


def _axes(table: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    _refuse_unknown(table, AXES, "[axes]")
    if "models" not in table:
        raise SpecError("[axes] names no models", 'write models = ["mswin_nano"]')
    axes = {}
    for axis in AXES:
        values = table.get(axis, list(_DEFAULTS.get(axis, ())))
        if not isinstance(values, list) or not values:
            raise SpecError(f"{axis} is {values!r}; expected a list", f"write {axis} = [ … ]")
        for value in values if axis in table else ():
            _check_value(axis, value)
        if twice := [value for value in values if values.count(value) > 1]:
            raise SpecError(f"{axis} has {twice[0]!r} twice", "a case runs once")
        axes[axis] = tuple(values)
    return axes


def _check_value(axis: str, value: Any) -> None:
    """Refuse a value that no case can have."""
    known = {"precisions": (FLOAT, *PRECISIONS), "engines": ENGINES}.get(axis)
    where = f"{axis} has {value!r}"
    if axis == "batch_sizes":
        if type(value) is not int or value < 1:
            raise SpecError(f"{where}; expected an integer of at least 1")
    elif not isinstance(value, str) or not value:
        raise SpecError(f"{where}; expected a text")
    elif axis == "resolutions":
        sizes = value.split("x")
        if not all(size.isdecimal() and int(size) > 0 for size in sizes):
            raise SpecError(f"{where}; expected sizes such as 224x224", "height first, then width")
    elif known and value not in known:
        raise SpecError(where, near_misses(value, known))


def _model(name: str, values: Any) -> SweptModel:
    where = f"[models.{name}]"
    table = dict(_table(values, where))
    calibration = table.pop("calibration", {})
    inputs = table.pop("inputs", [])
    if not isinstance(inputs, list) or not all(isinstance(text, str) for text in inputs):
        raise SpecError(
            f"{where} has the inputs {inputs!r}; expected a list of texts",
            'write inputs = ["input:1x3x224x224"]',
        )
    kinds = {"source": str, "weights": str, "dynamic": bool, "accuracy": str}
    known = (*kinds, "inputs", "calibration")
    _refuse_unknown(table, known, where)
    calibration = _typed(_table(calibration, f"calibration of {where}"), _CALIBRATION, where)
    model = SweptModel(
        name=name,
        inputs=tuple(InputSpec.parse(text) for text in inputs),
        calibration=calibration,
        **({"source": name} | _typed(table, kinds, where)),
    )
    if model.is_graph and (model.weights or model.inputs or model.dynamic):
        raise SpecError(
            f"{where} is the ONNX file {model.source}, which has its own weights and inputs",
            "leave out weights, inputs and dynamic",
        )
    if ":" in model.source and not model.inputs:
        raise SpecError(
            f"{where} does not tell the inputs of {model.source}",
            'write inputs = ["input:1x3x224x224"]',
        )
    return model


def _options(name: str, values: Any) -> dict[str, Any]:
    where = f"[options.{name}]"
    known = BUILD_OPTIONS | _CPU_OPTIONS | _QUANTIZE_OPTIONS | TENSORRT_OPTIONS
    options = _typed(_table(values, where), known, where)
    if options.get("recipe", RECIPES[0]) not in RECIPES:
        raise SpecError(
            f"{where} has the recipe {options['recipe']!r}", near_misses(options["recipe"], RECIPES)
        )
    return options


def _measure(values: Mapping[str, Any]) -> dict[str, Any]:
    """Read `[measure]`; refuse what no engine can be measured with."""
    asked = _typed(values, MEASURE, "[measure]")
    for name, value in asked.items():
        least = 1 if name in _AT_LEAST_ONE else 0
        if MEASURE[name] in (int, float) and not least <= value < math.inf:
            raise SpecError(f"{name} of [measure] is {value!r}; expected at least {least}")
    mode = asked.get("mode")
    if mode is not None and mode not in MODES:
        raise SpecError(f"[measure] has the mode {mode!r}", near_misses(mode, MODES))
    if asked.get("streams", 1) > 1 and asked.get("settle_s"):
        raise SpecError(
            f"[measure] has streams = {asked['streams']} and settle_s = {asked['settle_s']!r}",
            "whether the spread settles is looked at with one stream alone: leave one of them out",
        )
    if not asked.get("board", True) and asked.get("idle_s"):
        raise SpecError(
            "[measure] has idle_s, and board = false: nothing is read while the board rests",
            "leave one of them out",
        )
    return asked


def _entries(
    values: Any, what: str, axes: Mapping[str, tuple[Any, ...]], options: Mapping[str, Any]
) -> tuple[dict[str, Any], ...]:
    """Read `[[include]]` or `[[exclude]]`: values by the names that cases have for the axes."""
    if not isinstance(values, list):
        raise SpecError(f"{what} is no list of tables", f"write [[{what}]]")
    plurals = {name: axis for axis, name in AXES.items()}
    entries = []
    for number, value in enumerate(values, 1):
        where = f"[[{what}]] number {number}"
        entry = dict(_table(value, where))
        _refuse_unknown(entry, plurals, where)
        if not entry:
            raise SpecError(f"{where} is empty", f"give some of {', '.join(plurals)}")
        for name, wanted in entry.items():
            axis = plurals[name]
            if name == "options" and wanted == "":
                continue
            _check_value(axis, wanted)
            if (what == "exclude" or name == "model") and wanted not in axes[axis]:
                raise SpecError(f"{where} has the {name} {wanted!r}, which is not in {axis}")
        _refuse_undefined([entry.get("options", "")], options)
        entries.append(entry)
    return tuple(entries)


def _refuse_undefined(names: Any, options: Mapping[str, Any]) -> None:
    for name in names:
        if name not in options:
            raise SpecError(f"there are no options {name!r}", f"define them: [options.{name}]")


def _table(values: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise SpecError(f"{where} is {values!r}; expected a table")
    return values


def _refuse_unknown(values: Mapping[str, Any], known: Any, where: str) -> None:
    for key in values:
        if key not in known:
            raise SpecError(f"{where} has the unknown key {key}", near_misses(key, known))


def _typed(values: Mapping[str, Any], kinds: Mapping[str, type[Any]], where: str) -> dict[str, Any]:
    """Check the types of a table's values; an integer serves as a number."""
    _refuse_unknown(values, kinds, where)
    for key, value in values.items():
        kind = kinds[key]
        allowed = (int, float) if kind is float else (kind,)
        if type(value) not in allowed:
            raise SpecError(f"{key} of {where} is {value!r}; expected {_WORDS[kind]}")
    return dict(values)
