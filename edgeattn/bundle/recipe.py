"""How a bundle's engine is built on the board: what `edgeattn build` would be told there.

Options that name files of one machine have no place in it; they are refused when the bundle is
made. Only what differs from the defaults is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, get_args

from edgeattn.engine.tensorrt.lowering import AttentionWay
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.errors import ArtifactError, BuildError
from edgeattn.targets import get_target

ENGINES = ("auto", "cpu", "tensorrt")

_OF_ONE_MACHINE = ("timing_cache", "plugin", "implicit_int8", "device")
_OF_ONE_PLAN = ("target", "jetpack", "tensorrt_version", "lowered_graph")
_INSTEAD = {
    "implicit_int8": "quantize the graph: edgeattn quantize",
    "plugin": "give it to the bundle itself: --plugin-library",
    "target": "name it with the bundle's own --target",
}


@dataclass(frozen=True)
class BundledLibrary:
    """A plugin library in a bundle, and where it runs.

    Attributes:
        name: Its entry.
        machine: The processor's architecture, as `uname -m` says it.
        architectures: SM numbers that it was built for.
        tensorrt: Major version of the TensorRT that loads it.
    """

    name: str
    machine: str
    architectures: tuple[int, ...]
    tensorrt: int


@dataclass(frozen=True)
class Recipe:
    """What the board is told.

    Attributes:
        engine: `cpu`, `tensorrt`, or `auto` for what the board has.
        targets: Boards that the bundle is for; none for any.
        tensorrt: What is asked of a TensorRT build, free of anything that only one machine has.
        libraries: Plugin libraries in the bundle.
    """

    engine: str = "auto"
    targets: tuple[str, ...] = ()
    tensorrt: TensorRtRequest = field(default_factory=TensorRtRequest)
    libraries: tuple[BundledLibrary, ...] = ()

    def __post_init__(self) -> None:
        """Check names, that nothing of one machine is in it, and that the engine can run."""
        if self.engine not in ENGINES:
            raise BuildError(
                f"there is no engine {self.engine!r}", f"expected one of {', '.join(ENGINES)}"
            )
        for name in self.targets:
            get_target(name)
        for part, names in (
            (self.tensorrt.options, _OF_ONE_MACHINE),
            (self.tensorrt, _OF_ONE_PLAN),
        ):
            for name in _given(part):
                if name in names:
                    raise BuildError(
                        f"{name} was given, which belongs to one machine and not to a bundle",
                        _INSTEAD.get(name, "leave it out"),
                    )
        if self.tensorrt.options.strip_weights:
            raise BuildError(
                "strip_weights was given, and an engine without weights has no outputs to verify",
                "leave it out, or build the engine from its graph",
            )

    @property
    def uses_plugin(self) -> bool:
        """Whether the plugin computes attention, or may turn out to be the fastest."""
        return self.tensorrt.attention == "plugin" or self.tensorrt.autotune_attention

    def to_dict(self) -> dict[str, Any]:
        """Turn the recipe into JSON values."""
        request = _given(self.tensorrt)
        options = _given(request.pop("options", TensorRtOptions()))
        if "profiles" in options:
            options["profiles"] = [profile.to_dict() for profile in options["profiles"]]
        if "pools" in options:
            options["pools"] = dict(options["pools"])
        if "tactic_sources" in options:
            options["tactic_sources"] = list(options["tactic_sources"])
        return {
            "engine": self.engine,
            "targets": list(self.targets),
            "tensorrt": request | {"options": options},
            "libraries": [
                asdict(library) | {"architectures": list(library.architectures)}
                for library in self.libraries
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> Recipe:
        """Read a recipe from JSON values.

        Args:
            values: As `to_dict` gives them.
            source: File they come from, for the message.

        Raises:
            ArtifactError: If they are no recipe, or one that this version cannot follow.
        """
        try:
            request = dict(values["tensorrt"])
            options = dict(request.pop("options"))
            if "profiles" in options:
                options["profiles"] = tuple(_profile(**each) for each in options["profiles"])
            if "tactic_sources" in options:
                options["tactic_sources"] = tuple(map(str, options["tactic_sources"]))
            if "pools" in options:
                options["pools"] = {str(k): float(v) for k, v in options["pools"].items()}
            _check_flags(TensorRtOptions(), options)
            _check_flags(TensorRtRequest(), request)
            if request.get("attention", "plugin") not in get_args(AttentionWay):
                raise ValueError(f"attention is {request['attention']!r}")
            return cls(
                values["engine"],
                tuple(values["targets"]),
                TensorRtRequest(TensorRtOptions(**options), **request),
                tuple(_library(**each) for each in values["libraries"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError, BuildError) as err:
            raise ArtifactError(
                f"{source} says how to build its engine in a way that this edgeattn does not "
                f"know: {err}",
                "make the bundle again, or install the edgeattn that made it",
            ) from err


def _given(part: Any) -> dict[str, Any]:
    """List the fields of a dataclass that are not at their defaults."""
    plain = type(part)()
    names = [spec.name for spec in fields(part)]
    return {n: getattr(part, n) for n in names if getattr(part, n) != getattr(plain, n)}


def _check_flags(plain: Any, values: Mapping[str, Any]) -> None:
    """Refuse a flag that is neither true nor false; all else is checked when TensorRT is known."""
    for name, value in values.items():
        if isinstance(getattr(plain, name), bool) != isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}")


def _profile(**shapes: Mapping[str, Sequence[int]]) -> ShapeProfile:
    sizes = {
        kind: {str(name): tuple(map(_size, shape)) for name, shape in by_name.items()}
        for kind, by_name in shapes.items()
    }
    return ShapeProfile(**sizes)


def _library(name: Any, machine: Any, architectures: Any, tensorrt: Any) -> BundledLibrary:
    return BundledLibrary(
        str(name), str(machine), tuple(map(_size, architectures)), _size(tensorrt)
    )


def _size(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value
