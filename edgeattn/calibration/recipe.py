"""How a graph is calibrated: the choices as one object, read from `calib/recipes/NAME.toml`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from edgeattn.artifacts import data_folder, open_for_reading
from edgeattn.calibration.observers import observer_factory
from edgeattn.errors import ArtifactError, SpecError


@dataclass(frozen=True)
class CalibrationOptions:
    """Choices of a calibration.

    Args:
        method: How a scale follows from the values: one of `observers.METHODS`.
        percentile: For the method of that name: percent of magnitudes not clipped.
        keep_float: Names of nodes that `quantize` leaves in float with the table.
        data: Path or `module:function`; empty if it is given apart.
        samples: Most samples to use; `None` for all.
        batch_size: Samples per batch, where the graph leaves that open.
        seed: Chooses the samples.
        max_bad: Unreadable images to skip before giving up.

    Raises:
        SpecError: If a value has the wrong type, or method or percentile is out of range.
    """

    method: str = "auto"
    percentile: float = 99.99
    keep_float: Sequence[str] = ()
    data: str = ""
    samples: int | None = None
    batch_size: int = 8
    seed: int = 0
    max_bad: int = 0

    def __post_init__(self) -> None:
        """Check what the data source does not."""
        for name, kind in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise SpecError(
                    f"{name} is {value!r}, a {type(value).__name__}",
                    "see calib/recipes for the types",
                )
        if isinstance(self.keep_float, str) or not all(isinstance(n, str) for n in self.keep_float):
            raise SpecError(f"keep_float is {self.keep_float!r}", "give a list of nodes' names")
        observer_factory(self.method, self.percentile)

    def with_given(self, **values: Any) -> CalibrationOptions:
        """Replace the values that are not `None`."""
        return replace(self, **{name: v for name, v in values.items() if v is not None})


_KINDS: dict[str, Any] = {
    "method": str,
    "percentile": (int, float),
    "keep_float": (list, tuple),
    "data": str,
    "samples": (int, type(None)),
    "batch_size": int,
    "seed": int,
    "max_bad": int,
}


def load_recipe(recipe: str | Path) -> CalibrationOptions:
    """Read a recipe.

    Args:
        recipe: Name of one that comes with edgeattn (`mswin_nano`), or a path to a TOML file.
            Its `data` may be relative to its own folder or to `calib/samples`.

    Raises:
        ArtifactError: If there is no such recipe or it is not TOML.
        SpecError: If it holds an unknown key or a bad value.
    """
    path = _find(recipe)
    with open_for_reading(path) as stream:
        try:
            values = tomllib.load(stream)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
            raise ArtifactError(f"{path} is not TOML: {err}", "see calib/recipes") from err
    known = [field.name for field in fields(CalibrationOptions)]
    unknown = [key for key in values if key not in known]
    if unknown:
        raise SpecError(
            f"the recipe {path} has the unknown key {unknown[0]}",
            f"expected some of {', '.join(known)}",
        )
    try:
        options = CalibrationOptions(**values)
    except SpecError as err:
        raise SpecError(f"the recipe {path}: {err.message}", err.hint) from err
    return replace(options, data=_resolve(options.data, path.parent))


def recipe_names() -> list[str]:
    """List the recipes that come with edgeattn."""
    return sorted(path.stem for path in (data_folder("calib") / "recipes").glob("*.toml"))


def _find(recipe: str | Path) -> Path:
    if isinstance(recipe, Path) or recipe.endswith(".toml"):
        return Path(recipe)
    if recipe not in recipe_names():
        raise ArtifactError(
            f"there is no recipe {recipe}; those that come with edgeattn are "
            f"{', '.join(recipe_names())}",
            "give one of them, or a path that ends in .toml",
        )
    return data_folder("calib") / "recipes" / f"{recipe}.toml"


def _resolve(data: str, folder: Path) -> str:
    """Make a path to data absolute; `module:function` and what is not found stay as they are."""
    for base in (folder, data_folder("calib") / "samples"):
        if data and (base / data).exists():
            return str((base / data).absolute())
    return data
