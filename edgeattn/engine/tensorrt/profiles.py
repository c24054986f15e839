"""Optimization profiles: the range of shapes of every input, made whole and checked.

TensorRT checks profiles late and in words of its own ("kOPT values for profile 0 violate shape
constraints"); here each contradiction is found before a builder exists, and named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from edgeattn.engine.base import near_misses
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.errors import BuildError
from edgeattn.inputs import Dim

Kind = Literal["min", "opt", "max"]
_KINDS: tuple[Kind, ...] = ("opt", "min", "max")  # min and max are opt's where they are left out
Shape = tuple[int, ...]


class ShapedInput(Protocol):
    """What a profile needs to know of an input; `TensorSpec` and `InputSpec` tell it."""

    @property
    def name(self) -> str:
        """Name of the tensor."""

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Sizes, and names of free dimensions."""

    @property
    def dtype(self) -> str:
        """Name of the element type in numpy."""


def resolve_profiles(
    options: TensorRtOptions, inputs: Sequence[ShapedInput]
) -> tuple[ShapeProfile, ...]:
    """Make the profiles of a build whole: every input with its smallest, best and largest shape.

    Args:
        options: Holds the profiles that were asked for.
        inputs: The graph's inputs. One name of a free dimension stands for one size.

    Returns:
        At least one profile; for a graph without free dimensions the one that holds its shapes.

    Raises:
        BuildError: If a free dimension has no range, an input is unknown, or a range contradicts
            itself or the graph.
    """
    if not options.profiles:
        _require_fixed(inputs)
    profiles = options.profiles or (ShapeProfile(opt={}),)
    several = len(profiles) > 1
    return tuple(
        _resolve(profile, inputs, f" of profile {index}" if several else "")
        for index, profile in enumerate(profiles)
    )


def can_be_shape_tensor(spec: ShapedInput) -> bool:
    """Tell whether TensorRT may take an input for sizes: few integers of a fixed number."""
    return (
        spec.dtype in ("int32", "int64")
        and len(spec.shape) <= 1
        and all(isinstance(dim, int) for dim in spec.shape)
    )


def _require_fixed(inputs: Sequence[ShapedInput]) -> None:
    for spec in inputs:
        free = [dim for dim in spec.shape if isinstance(dim, str)]
        if free:
            example = "x".join("1" if isinstance(dim, str) else str(dim) for dim in spec.shape)
            raise BuildError(
                f"the input {spec.name} has the free dimension{'s' * (len(free) > 1)} "
                f"{', '.join(free)}, and no range of shapes was given",
                f"give --opt-shapes {spec.name}:{example} with your own sizes, and --min-shapes "
                "and --max-shapes where they vary",
            )


def _resolve(profile: ShapeProfile, inputs: Sequence[ShapedInput], where: str) -> ShapeProfile:
    known = [spec.name for spec in inputs]
    for kind in _KINDS:
        for name in getattr(profile, kind):
            if name not in known:
                raise BuildError(
                    f"the {kind} shapes{where} name an input {name}, and the graph has none such",
                    near_misses(name, known),
                )
    shapes: dict[Kind, dict[str, Shape]] = {"min": {}, "opt": {}, "max": {}}
    for spec in inputs:
        for kind, shape in _shapes_of(profile, spec, where).items():
            shapes[kind][spec.name] = shape
    for kind in _KINDS:
        _check_names_of_dimensions(inputs, shapes[kind], f"{kind} shapes{where}")
    return ShapeProfile(**shapes)


def _shapes_of(profile: ShapeProfile, spec: ShapedInput, where: str) -> dict[Kind, Shape]:
    """Fill in what was left out of one input, and check it."""
    fixed = tuple(dim for dim in spec.shape if isinstance(dim, int))
    opt = profile.opt.get(spec.name)
    if opt is None:
        if len(fixed) < len(spec.shape):
            raise BuildError(
                f"the opt shapes{where} lack the input {spec.name}, whose shape is free: "
                f"{_text(spec.shape)}",
                f"add {spec.name} to --opt-shapes",
            )
        opt = fixed
    given: dict[Kind, Shape] = {
        "opt": tuple(opt),
        "min": tuple(profile.min.get(spec.name, opt)),
        "max": tuple(profile.max.get(spec.name, opt)),
    }
    if not _are_values(spec, given):
        for kind, shape in given.items():
            _check_shape(spec, shape, f"{kind} shape{where}")
    for small, large in (("min", "opt"), ("opt", "max")):
        below, above = given[small], given[large]  # type: ignore[index]  # both are kinds
        for axis, (low, high) in enumerate(zip(below, above, strict=True)):
            if low > high:
                raise BuildError(
                    f"the input {spec.name} has the {small} shape {_text(below)} and the {large} "
                    f"shape {_text(above)}{where}: {low} is more than {high} on axis {axis}",
                    "give min <= opt <= max on every axis",
                )
    return given


def _are_values(spec: ShapedInput, given: Mapping[Kind, Shape]) -> bool:
    """Tell whether numbers are the values of a shape tensor instead of its shape."""
    if not can_be_shape_tensor(spec):
        return False
    count = spec.shape[0] if spec.shape else 1
    return all(len(shape) == count for shape in given.values())


def _check_shape(spec: ShapedInput, shape: Shape, what: str) -> None:
    if len(shape) != len(spec.shape):
        raise BuildError(
            f"the {what} of the input {spec.name} is {_text(shape)} of rank {len(shape)}; the "
            f"graph has rank {len(spec.shape)}: {_text(spec.shape)}",
            f"give {len(spec.shape)} sizes",
        )
    for axis, (size, dim) in enumerate(zip(shape, spec.shape, strict=True)):
        if size < 1:
            raise BuildError(
                f"the {what} of the input {spec.name} is {_text(shape)}; expected sizes of at "
                "least 1",
                "give positive sizes",
            )
        if isinstance(dim, int) and size != dim:
            raise BuildError(
                f"the {what} of the input {spec.name} is {_text(shape)}; the graph fixes axis "
                f"{axis} to {dim}: {_text(spec.shape)}",
                f"give {dim} there, or export the model with dynamic axes",
            )


def _check_names_of_dimensions(
    inputs: Sequence[ShapedInput], shapes: Mapping[str, Shape], what: str
) -> None:
    """Hold one name of a free dimension to one size in all inputs."""
    sizes: dict[str, tuple[int, str]] = {}  # of each dimension, and the input that set it
    for spec in inputs:
        for dim, size in zip(spec.shape, shapes[spec.name], strict=False):
            if not isinstance(dim, str):
                continue
            first, setter = sizes.setdefault(dim, (size, spec.name))
            if size != first:
                raise BuildError(
                    f"the {what} set the dimension {dim} to {first} in the input {setter} and to "
                    f"{size} in {spec.name}",
                    "one name stands for one size",
                )


def _text(shape: Sequence[Dim]) -> str:
    return "x".join(map(str, shape)) if shape else "scalar"
