"""The layers of an engine with their times, and their sums by module of the model."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgeattn.errors import ArtifactError

Bound = Literal["memory", "compute", ""]

# Path of layers that nothing ties to a module.
OTHER = ("(other)",)
# Path of layers that come from the model's own `forward`, not from one of its modules.
MODEL = ("(model)",)


@dataclass(frozen=True)
class LayerRow:
    """A layer of an engine: what it is, how long it takes, and how near the hardware's limit.

    Attributes:
        name: As the engine calls it.
        kind: What it does: an operator of ONNX Runtime, or a kind of TensorRT's layers.
        module: Path of the module that it belongs to; `OTHER` if nothing tells, `MODEL` if it
            lies between the modules.
        ms: Mean of its times in typical runs, see `typical_runs`: these add up.
        median_ms: Median of all its times.
        mean_ms: Their mean.
        share: Part of the whole query that `ms` is, 0 to 1.
        nodes: Names of the graph's nodes that it computes.
        precision: numpy's name of the type that it computes in; empty if not known.
        bytes: What it reads and writes; `None` if not known.
        flops: What it computes, a multiply-add being two; `None` if not known.
        gb_s: `bytes` over `median_ms`, in 10^9 bytes a second; `None` if either is unknown or the
            median is 0.
        gflop_s: `flops` over `median_ms`, in 10^9 a second; as above.
        ceiling_share: The least time that the hardware allows, over `median_ms`: 1 is as fast as
            it gets; `None` without a ceiling.
        bound: Which ceiling is the nearer one; empty without a ceiling.
    """

    name: str
    kind: str
    module: tuple[str, ...]
    ms: float
    median_ms: float
    mean_ms: float
    share: float
    nodes: tuple[str, ...] = ()
    precision: str = ""
    bytes: int | None = None
    flops: int | None = None
    gb_s: float | None = None
    gflop_s: float | None = None
    ceiling_share: float | None = None
    bound: Bound = ""

    @classmethod
    def from_dict(cls, values: Any) -> LayerRow:
        """Read a row back from the values of a `LayerProfile`."""
        lists = {name: tuple(values[name]) for name in ("module", "nodes")}
        return cls(**(values | lists))


@dataclass(frozen=True)
class ModuleRow:
    """A module of the model, or a head group of an attention.

    Attributes:
        path: Names from the model down to it.
        label: The same for people: `stage 2 / block 1 / attention (windows 4, 8)`.
        ms: Sum of its layers' times in typical runs, those of its children among them.
        share: Part of the whole query, 0 to 1.
        layers: How many layers these are.
        children: Modules in it, in the order in which they run.
    """

    path: tuple[str, ...]
    label: str
    ms: float
    share: float
    layers: int
    children: tuple[ModuleRow, ...] = ()

    @classmethod
    def from_dict(cls, values: Any) -> ModuleRow:
        """Read a row back from the values of a `LayerProfile`."""
        children = tuple(cls.from_dict(child) for child in values["children"])
        return cls(**(values | {"path": tuple(values["path"]), "children": children}))


@dataclass(frozen=True)
class LayerProfile:
    """Where the time of a query goes.

    Attributes:
        rows: The layers in the order in which they run.
        modules: The modules at the top of the model.
        total_ms: Sum of the layers' times in typical runs.
        whole_ms: Median of a query that nobody looks into, measured beside the layers: what
            `total_ms` should come close to.
        runs: How many queries the layers' times are from.
        note: How this was measured, in a few sentences.
        ceiling: What the shares of the ceiling refer to; empty without one.
        roofs: Its figures: `gb_s`, and `gflop_s` by type; `None` without one.
    """

    rows: tuple[LayerRow, ...]
    modules: tuple[ModuleRow, ...]
    total_ms: float
    whole_ms: float
    runs: int
    note: str
    ceiling: str = ""
    roofs: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Turn the profile into JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> LayerProfile:
        """Read a profile back.

        Raises:
            ArtifactError: If it is not what `to_dict` gives.
        """
        try:
            rows = tuple(LayerRow.from_dict(row) for row in values["rows"])
            modules = tuple(ModuleRow.from_dict(row) for row in values["modules"])
            return cls(**(values | {"rows": rows, "modules": modules}))
        except (KeyError, TypeError) as err:
            raise ArtifactError(f"a layer profile is malformed: {err!r}") from err

    def export_profile(self) -> list[dict[str, Any]]:
        """Give the layers as trtexec's `--exportProfile` does.

        References:
            NVIDIA/TensorRT, samples/common/sampleReporting.cpp, `Profiler::exportJSONProfile`.
        """
        layers = sum(row.mean_ms for row in self.rows)
        return [
            {"count": self.runs},
            *(
                {
                    "name": row.name,
                    "timeMs": row.mean_ms * self.runs,
                    "averageMs": row.mean_ms,
                    "medianMs": row.median_ms,
                    "percentage": 100.0 * row.mean_ms / layers if layers else 0.0,
                }
                for row in self.rows
            ),
        ]


def typical_runs(
    times_ms: Sequence[Sequence[float]], near_ms: float | None = None
) -> tuple[int, ...]:
    """Pick a fifth of the runs: those whose sums over all layers are those of a usual query.

    Medians of layers do not add up to the median of a query: on a busy machine each run is late in
    another layer, and no layer's median shows it. Means over the same runs add up, and those in the
    middle come close to the median of a query, however late the late ones are. Where most runs are
    late, because the profiler makes them long, the middle is late too: `near_ms` says better.

    Args:
        times_ms: For each layer its time in each run.
        near_ms: What the sum of a usual run is, if that was measured beside; by default the median
            of the sums.

    Returns:
        Numbers of the runs in their order, at least one if there is any.
    """
    sums = [sum(run) for run in zip(*times_ms, strict=True)]
    order = sorted(range(len(sums)), key=sums.__getitem__)
    edge = 2 * len(order) // 5
    kept = len(order) - 2 * edge
    if near_ms is not None:
        rank = bisect([sums[run] for run in order], near_ms)
        edge = min(max(rank - kept // 2, 0), len(order) - kept)
    return tuple(sorted(order[edge : edge + kept]))


def module_tree(
    rows: Sequence[LayerRow], notes: Mapping[tuple[str, ...], str]
) -> tuple[ModuleRow, ...]:
    """Sum layers by module.

    Args:
        rows: The layers.
        notes: What to add to the labels of some modules, by path.
    """

    def level(members: Sequence[LayerRow], depth: int) -> tuple[ModuleRow, ...]:
        by_path: dict[tuple[str, ...], list[LayerRow]] = {}
        for row in members:
            if len(row.module) > depth:
                by_path.setdefault(row.module[: depth + 1], []).append(row)
        return tuple(
            ModuleRow(
                path,
                _label(path, notes),
                sum(row.ms for row in inside),
                sum(row.share for row in inside),
                len(inside),
                level(inside, depth + 1),
            )
            for path, inside in by_path.items()
        )

    return level(rows, 0)


def _label(path: tuple[str, ...], notes: Mapping[tuple[str, ...], str]) -> str:
    if path in (OTHER, MODEL):
        return path[0].strip("()")
    note = notes.get(path, "")
    return " / ".join(map(_plain, path)) + (f" ({note})" if note else "")


def _plain(name: str) -> str:
    """Call a member of a list of modules by its number: `blocks.1` is block 1."""
    word, _, number = name.rpartition(".")
    return f"{word.removesuffix('s') or word} {number}" if word and number.isdigit() else name
