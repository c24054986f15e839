"""The inputs at which a model is traced, and those at which its graph is compared with it.

A dynamic graph is traced at one size and promises all. So it is compared at others too: a larger
one, a smaller one, and those just beyond what the tracer could vouch for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import ModelError, SpecError, first_line
from edgeattn.inputs import InputSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = "batch"
# `[B, C, H, W]` and `[B, C, L]` as the field writes them.
_SPATIAL_AXES = {4: {2: "height", 3: "width"}, 3: {2: "length"}}


@dataclass(frozen=True)
class Trial:
    """A model's outputs for drawn inputs.

    Attributes:
        tensors: The inputs in their order.
        outputs: What the model gives for them.
        sizes: Sizes of the dynamic axes, by name.
    """

    tensors: tuple[Tensor, ...]
    outputs: tuple[np.ndarray, ...]
    sizes: Mapping[str, int]

    @property
    def shapes(self) -> str:
        """The inputs' shapes, to read: `2x3x224x224, 2x5`."""
        return _shapes(self.tensors)

    def arrays(self, specs: Sequence[InputSpec]) -> dict[str, np.ndarray]:
        """The inputs by name."""
        return {s.name: t.numpy() for s, t in zip(specs, self.tensors, strict=True)}


def dynamic_axes(specs: Sequence[InputSpec]) -> list[dict[int, str]]:
    """Name the axes left open: axis 0, and the axes of a map or signal.

    Axes of one name are of one size in every use of the graph. So where inputs differ, the
    later ones' axes carry the input's name.
    """
    sizes: dict[str, int | str] = {}
    named = []
    for spec in specs:
        axes = {0: BATCH} | _SPATIAL_AXES.get(len(spec.shape), {}) if spec.shape else {}
        for axis, name in axes.items():
            if sizes.setdefault(name, spec.shape[axis]) != spec.shape[axis]:
                axes[axis] = f"{spec.name}_{name}"
        named.append(axes)
    return named


def run_at(model: nn.Module, specs: Sequence[InputSpec], sizes: Mapping[str, int]) -> Trial:
    """Draw seeded inputs and run the model.

    Args:
        model: In eval mode.
        specs: Its inputs, of static shape.
        sizes: Sizes of dynamic axes in place of the specs', by name.

    Raises:
        ModelError: If the model does not run on them, or gives no tensors that numpy can hold.
        SpecError: If a spec is not static.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = []
    for spec, axes in zip(specs, dynamic_axes(specs), strict=True):
        shape = _static_shape(spec)
        for axis, name in axes.items():
            shape[axis] = sizes.get(name, shape[axis])
        dtype = getattr(torch, spec.dtype)
        if dtype.is_floating_point:
            tensors.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            tensors.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
    try:
        with torch.no_grad():
            outputs = model(*tensors)
    except Exception as err:  # whatever the user's model raises
        raise ModelError(
            f"the model does not run on inputs of {_shapes(tensors)}: {first_line(err)}",
            "check --input",
        ) from err
    return Trial(tuple(tensors), _to_arrays(outputs), sizes)


def traced_sizes(specs: Sequence[InputSpec]) -> dict[str, int]:
    """Choose the sizes of dynamic axes to trace at: the specs', and a batch of at least 2.

    Tracing may take a size of 1 for a constant.
    """
    sizes: dict[str, int] = {}
    for spec, axes in zip(specs, dynamic_axes(specs), strict=True):
        shape = _static_shape(spec)
        for axis, name in axes.items():
            sizes.setdefault(name, max(shape[axis], 2) if axis == 0 else shape[axis])
    return sizes


def other_trials(
    model: nn.Module, specs: Sequence[InputSpec], limits: Mapping[str, Sequence[int]]
) -> Iterator[Trial]:
    """Run a model at sizes other than the traced ones, as far as it accepts them.

    Args:
        model: In eval mode.
        specs: Its inputs.
        limits: By dynamic axis, sizes just outside those that the tracer vouches for.

    Raises:
        ModelError: If it runs at no larger size, not even of the batch alone.
    """
    traced = traced_sizes(specs)
    batch = {name: size + 1 for name, size in traced.items() if name.endswith(BATCH)}
    one = dict.fromkeys(batch, 1)
    odd = {name: size + 5 for name, size in traced.items()}
    double = {name: 2 * size for name, size in traced.items()}  # for models that want multiples
    half = {name: max(size // 2, 1) for name, size in traced.items()}
    others = [{name: size} for name, sizes in limits.items() for size in sizes]
    for alternatives in (*([size] for size in others), [half | one, one]):
        if trial := _first_that_runs(model, specs, [traced | sizes for sizes in alternatives]):
            yield trial
    larger = [traced | sizes for sizes in (odd | batch, double | batch)]
    try:
        yield _first_that_runs(model, specs, larger) or run_at(model, specs, traced | batch)
    except ModelError as err:
        raise ModelError(f"no axis can stay dynamic: {err.message}", "export it static") from err


def _first_that_runs(
    model: nn.Module, specs: Sequence[InputSpec], alternatives: Sequence[Mapping[str, int]]
) -> Trial | None:
    for sizes in alternatives:
        with suppress(ModelError):  # the model's own limit, not the graph's
            return run_at(model, specs, sizes)
    return None


def _static_shape(spec: InputSpec) -> list[int]:
    shape = [dim for dim in spec.shape if isinstance(dim, int)]
    if len(shape) != len(spec.shape):
        raise SpecError(
            f"input {spec.name} has the shape {spec.shape}; expected example sizes",
            "give numbers, and dynamic=True to leave axes open",
        )
    if spec.dtype == "bfloat16":
        raise SpecError(
            f"input {spec.name} is bfloat16, in which no model can be compared with its graph",
            "export the model in float32",
        )
    return shape


def _to_arrays(outputs: object) -> tuple[np.ndarray, ...]:
    import torch

    several = outputs if isinstance(outputs, tuple | list) else (outputs,)
    if not several or not all(isinstance(o, torch.Tensor) for o in several):
        kinds = ", ".join(sorted({type(o).__name__ for o in several})) or "nothing"
        raise ModelError(
            f"the model returns {kinds}; expected tensors",
            "wrap it in a module that returns a tensor or a tuple of them",
        )
    if any(o.dtype == torch.bfloat16 for o in several):
        raise ModelError("the model returns bfloat16", "export the model in float32")
    return tuple(o.detach().numpy() for o in several)


def _shapes(tensors: Sequence[Tensor]) -> str:
    return ", ".join("x".join(map(str, t.shape)) or "a scalar" for t in tensors)
