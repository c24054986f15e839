"""What is typed for TensorRT, turned into what `edgeattn.build` and `edgeattn.load` take.

trtexec's spellings of shapes, memory pools and levels are read as well as ours. What trtexec 10
says about precision is refused with what to do instead: precision is in the graph.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgeattn.cli.options import parse_shapes

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions
    from edgeattn.engine.tensorrt.options import ImplicitInt8, ShapeProfile, TensorRtOptions
    from edgeattn.engine.tensorrt.request import TensorRtRequest

Shapes = Mapping[str, tuple[int, ...]]

# TensorRT's memory pools by ours and by trtexec's spelling. The help must not import the package of
# the engine to know.
POOLS = {
    "workspace": "workspace",
    "dla_managed_sram": "dlaSRAM",
    "dla_local_dram": "dlaLocalDRAM",
    "dla_global_dram": "dlaGlobalDRAM",
    "tactic_dram": "",
    "tactic_shared_memory": "tacticSharedMem",
}
_MIB_PER_UNIT = {"B": 2**-20, "K": 2**-10, "M": 1, "G": 2**10}

_IN_GRAPH = "precision is in the graph, and TensorRT 11 has no flag for it: "
# What trtexec 10 takes and a strongly typed network has no use for.
_REFUSED = {
    "--fp16": _IN_GRAPH + "edgeattn quantize GRAPH --precision fp16",
    "--bf16": _IN_GRAPH + "edgeattn quantize GRAPH --precision bf16",
    "--int8": _IN_GRAPH + "edgeattn quantize GRAPH --table T.calib.json --precision int8",
    "--best": _IN_GRAPH + "edgeattn quantize GRAPH --table T.calib.json --precision int8+fp16",
    "--calib": "import the cache: edgeattn calibrate GRAPH --from-cache FILE, then quantize",
    "--layerPrecisions": _IN_GRAPH + "edgeattn quantize GRAPH --keep-float NODE",
    "--precisionConstraints": _IN_GRAPH + "edgeattn quantize GRAPH --keep-float NODE",
}


# Of `TensorRtRequest`; the others are fields of its `TensorRtOptions`.
_OF_REQUEST = (
    "attention",
    "autotune_attention",
    "jetpack",
    "lowered_graph",
    "require_precision",
    "target",
    "tensorrt_version",
)
# Of `ImplicitInt8`: what it calls them, by what they are called here.
_OF_CALIBRATION = {
    "data": "data",
    "calibrator": "method",
    "samples": "samples",
    "cache": "cache",
    "implicit_fp16": "fp16",
}
_RESPELT: Mapping[str, Mapping[str, Any]] = {
    "hardware_compatibility": {"sameComputeCapability": "same_compute_capability"},
    "profiling_verbosity": {"layer_names_only": "layer_names"},
    "sparsity": {"enable": True, "disable": False},
}


def parse_profiles(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> tuple[Shapes, ...]:
    """Read the shapes of one or more profiles: an input named again begins the next profile."""
    profiles: list[dict[str, tuple[int, ...]]] = []
    for value in values:
        shapes = parse_shapes(ctx, param, [value])
        if not profiles or profiles[-1].keys() & shapes.keys():
            profiles.append({})
        profiles[-1].update(shapes)
    return tuple(profiles)


def parse_pools(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> dict[str, float]:
    """Read `workspace:512,tacticSharedMem:48K` as MiB by our name of the pool."""
    pools = {}
    spelt = {name: name for name in POOLS} | {
        theirs.lower(): ours for ours, theirs in POOLS.items()
    }
    for entry in ",".join(values).split(",") if values else ():
        name, _, text = entry.rpartition(":")
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([BKMG]?)(?:iB)?", text, re.IGNORECASE)
        if not name or name.lower() not in spelt or match is None:
            raise click.BadParameter(
                f"{entry!r}; expected POOL:SIZE such as workspace:1024 (MiB) or workspace:2G, the "
                f"pools being {', '.join(POOLS)}"
            )
        pools[spelt[name.lower()]] = float(match[1]) * _MIB_PER_UNIT[match[2].upper() or "M"]
    return pools


def parse_sources(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    """Read the names to use, with commas, each as it is or with trtexec's `+`."""
    if value is None:
        return None
    names = tuple(name.removeprefix("+") for name in value.split(",") if name)
    if any(name.startswith("-") for name in names):
        raise click.BadParameter(f"{value!r}; expected the names of those to use, and no others")
    return names


def refuse(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Tell what to do instead of an option that trtexec 10 has."""
    if value:
        raise click.UsageError(f"{param.opts[0]} is not needed here: {_REFUSED[param.opts[0]]}")


def build_request(given: dict[str, Any]) -> TensorRtRequest | None:
    """Turn what was set on the command line into the request of a build; `None` if nothing was."""
    from edgeattn.engine.tensorrt.request import TensorRtRequest

    if not given:
        return None
    arguments = {name: given.pop(name) for name in _OF_REQUEST if name in given}
    if given:
        arguments["options"] = _builder_options(given)
    return TensorRtRequest(**arguments)


def run_options(given: dict[str, Any]) -> TensorRtRunOptions | None:
    """Turn what was set on the command line into how to run an engine; `None` if nothing was."""
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions

    return TensorRtRunOptions(**given) if given else None


def _builder_options(given: dict[str, Any]) -> TensorRtOptions:
    from edgeattn.engine.tensorrt.options import TensorRtOptions

    names = ("min_shapes", "opt_shapes", "max_shapes", "fixed_shapes")
    profiles = _profiles(*(given.pop(name, ()) for name in names))
    calibration = {name: given.pop(name) for name in _OF_CALIBRATION if name in given}
    pools = given.pop("pools", {})
    if "workspace" in pools:
        workspace = int(pools.pop("workspace"))
        if given.setdefault("workspace_mib", workspace) != workspace:
            raise click.UsageError(
                f"--workspace is {given['workspace_mib']} MiB and --memory-pool says {workspace}"
            )
    if "serialized_plugin" in given:
        given |= {"plugin": given.pop("serialized_plugin"), "embed_plugin": True}
    for name in _RESPELT.keys() & given.keys():
        given[name] = _RESPELT[name].get(given[name], given[name])
    return TensorRtOptions(
        profiles=profiles, pools=pools, implicit_int8=_implicit_int8(calibration), **given
    )


def _profiles(
    smallest: Sequence[Shapes],
    tuned: Sequence[Shapes],
    largest: Sequence[Shapes],
    fixed: Sequence[Shapes],
) -> tuple[ShapeProfile, ...]:
    """Put the shapes together, profile by profile."""
    from edgeattn.engine.tensorrt.options import ShapeProfile

    if fixed and (smallest or tuned or largest):
        raise click.UsageError("--shapes goes without --min-shapes, --opt-shapes and --max-shapes")
    if (smallest or largest) and not tuned:
        raise click.UsageError("--min-shapes and --max-shapes go with --opt-shapes")
    tuned = tuned or fixed
    counts = [len(shapes) or len(tuned) for shapes in (smallest, tuned, largest)]
    if len(set(counts)) > 1:
        raise click.UsageError(
            "--min-shapes, --opt-shapes and --max-shapes are of {}, {} and {} profiles; expected "
            "as many of each".format(*counts)
        )
    empty: Sequence[Shapes] = [{}] * len(tuned)
    return tuple(
        ShapeProfile(opt=opt, min=low, max=high)
        for opt, low, high in zip(tuned, smallest or empty, largest or empty, strict=True)
    )


def _implicit_int8(given: dict[str, Any]) -> ImplicitInt8 | None:
    from edgeattn.engine.tensorrt.options import ImplicitInt8

    if given and "data" not in given:
        spelt = {"cache": "calibration-cache", "samples": "calibration-samples"}
        name = next(iter(given))
        option = spelt.get(name, name.replace("_", "-"))
        raise click.UsageError(f"--{option} goes with --implicit-int8")
    return ImplicitInt8(**{_OF_CALIBRATION[n]: v for n, v in given.items()}) if given else None
