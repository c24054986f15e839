"""The plan of a build in lines for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from edgeattn.engine.autotune import NOTHING_TO_CHOOSE
from edgeattn.engine.tensorrt.lowering import AttentionWay
from edgeattn.engine.tensorrt.memory import usual_build_bytes
from edgeattn.engine.tensorrt.options import ShapeProfile
from edgeattn.engine.tensorrt.plan import BuildPlan
from edgeattn.graph.fuse_report import fusion_line
from edgeattn.plugin.build import PLUGIN

_WAYS: Mapping[AttentionWay, str] = {
    "plugin": "our plugin (one kernel launch for a layer)",
    "native": "standard operators (which TensorRT fuses, or not)",
    "attention": "ONNX's Attention operator (TensorRT's own fused kernel)",
}
_MOST_NAMES = 6  # of layers in a line for people; --json has all


Row = tuple[str, str]


def plan_lines(plan: BuildPlan) -> list[str]:
    """Write a plan for people.

    Args:
        plan: What a build would do.

    Returns:
        Lines: names and what is to be said of them, then the trtexec command.
    """
    rows = [row for part in _PARTS for row in part(plan)]
    width = max(len(name) for name, _ in rows)
    shown = [f"{plan.graph} → {plan.files[0]}, a dry run: nothing is built", ""]
    shown += [f"{name:<{width}}  {text}".rstrip() for name, text in rows]
    return [*shown, "", *_trtexec_lines(plan)]


def _about_destination(plan: BuildPlan) -> Iterator[Row]:
    where = plan.destination
    sms = ", ".join(f"sm_{number}" for number in where.architectures) or "no GPU"
    yield "for", f"{where.title} ({sms})"
    yield "TensorRT", f"{where.version}: {where.version_reason}"
    if where.jetpack:
        release = where.jetpack
        yield "", f"with CUDA {release.cuda} and Python {release.python}"


def _about_graph(plan: BuildPlan) -> Iterator[Row]:
    weights = f"{_size(plan.weights_bytes)} of weights"
    if plan.largest_tensor:
        weights += f", the largest {plan.largest_tensor} ({_size(plan.largest_bytes)})"
    yield "graph", f"lowered to {plan.nodes} nodes of opset {plan.opset}; {weights}"
    total = sum(map(len, plan.products.values()))
    counts: list[str] = []
    for name, layers in sorted(plan.products.items(), key=lambda item: -len(item[1])):
        named = f" ({_some(layers)})" if counts else ""  # those that differ from most
        counts.append(f"{len(layers)} in {name}{named}")
    yield "precision", f"{plan.precision}: of {total} layers with matrix products {_and(counts)}"


def _about_tensors(plan: BuildPlan) -> Iterator[Row]:
    for what, specs in (("input", plan.inputs), ("output", plan.outputs)):
        for spec in specs:
            yield what, str(spec)
    for index, profile in enumerate(plan.profiles):
        name = f"profile {index}" if len(plan.profiles) > 1 else "shapes"
        for tensor in profile.opt:
            yield name, f"{tensor}: {_range(profile, tensor)}"
            name = ""
    if plan.are_shapes_exported:
        yield (
            "",
            "as the graph was exported; --min-shapes, --opt-shapes and --max-shapes say others",
        )


def _about_fusion(plan: BuildPlan) -> Iterator[Row]:
    if plan.fusion:
        yield "fusion", fusion_line(plan.fusion)


def _about_attention(plan: BuildPlan) -> Iterator[Row]:
    if not plan.attention:
        yield "attention", "none"
        return
    alike: dict[tuple[AttentionWay, str, str, str], list[str]] = {}
    for each in plan.attention:
        types = f"{each.in_type or '?'} to {each.out_type or '?'}"
        key = (each.way, types, "; ".join(each.obstacles), str(each.padded or ""))
        alike.setdefault(key, []).append(each.name)
    name = "attention"
    for (way, types, obstacles, padded), names in alike.items():
        yield name, f"{len(names)} by {_WAYS[way]}, {types}"
        yield from (("", f"  {label}") for label in names[:_MOST_NAMES])
        if len(names) > _MOST_NAMES:
            yield "", f"  and {len(names) - _MOST_NAMES} more"
        if obstacles:
            yield "", f"  TensorRT will not fuse them: {obstacles}"
        if padded:
            yield "", f"  {padded}"
        name = ""


def _about_tuning(plan: BuildPlan) -> Iterator[Row]:
    if len(plan.candidates) > 1:
        count = len(plan.candidates)
        yield "tries", f"{count} engines; the first, planned here, stays if none is surely faster"
        yield from (("", f"  {name}") for name in plan.candidates)
    elif plan.candidates:
        yield "tries", NOTHING_TO_CHOOSE


def _about_plugin(plan: BuildPlan) -> Iterator[Row]:
    need = plan.plugin
    if need is None:
        yield "plugin", "not needed"
    elif need.library:
        yield "plugin", need.library + (", carried by the engine" if need.embedded else "")
    else:
        where = plan.destination
        place = "on the board" if where.target else "where the engine is built"
        if where.architectures and not where.target:
            place = "here"
        yield "plugin", f"{PLUGIN} has to be built {place} first: {need.build_command}"


def _about_resources(plan: BuildPlan) -> Iterator[Row]:
    options = plan.options
    workspace = options["workspace_mib"]
    text = f"{workspace} MiB" if workspace else "what is free when it is built, less a reserve"
    pools = [f"{name} {mib:g} MiB" for name, mib in options["pools"].items()]
    yield "workspace", "; ".join([text, *pools])
    needed = usual_build_bytes(plan.weights_bytes)
    yield "memory", f"a build of these weights usually takes about {_size(needed)} besides"
    if options["no_timing_cache"]:
        yield "timing", "every kernel is measured anew, and nothing kept"
    else:
        cache = (
            options["timing_cache"] or "one file per GPU, driver and TensorRT in the cache folder"
        )
        yield "timing", f"cache: {cache}"
    for finding in plan.memory:
        yield finding.level, finding.text + (f"; {finding.hint}" if finding.hint else "")


def _about_settings(plan: BuildPlan) -> Iterator[Row]:
    yield "settings", "; ".join(_settings(plan))
    yield "writes", ", ".join(plan.files)


def _about_faults(plan: BuildPlan) -> Iterator[Row]:
    yield "faults", (plan.faults or ("none known for this TensorRT",))[0]
    yield from (("", fault) for fault in plan.faults[1:])


_PARTS = (
    _about_destination,
    _about_graph,
    _about_tensors,
    _about_fusion,
    _about_attention,
    _about_tuning,
    _about_plugin,
    _about_resources,
    _about_settings,
    _about_faults,
)


def _settings(plan: BuildPlan) -> Iterator[str]:
    """Say what is asked of TensorRT: the defaults that matter, and what differs from them."""
    options = plan.options
    weak = options["implicit_int8"] or options["dla_core"] is not None
    yield "types chosen by TensorRT" if weak else "strongly typed"
    level = options["optimization_level"]
    yield f"optimization level {'3 (the default)' if level is None else level}"
    yield "TF32 on" if options["tf32"] else "TF32 off"
    yield f"layer report {options['profiling_verbosity'].replace('_', ' ')}"
    for name in _FLAGS:
        if options[name]:
            yield name.replace("_", " ")
    for name in ("max_tactics", "avg_timing", "max_aux_streams", "tiling", "dla_core"):
        if options[name] is not None:
            yield f"{name.replace('_', ' ')} {options[name]}"
    if options["tactic_sources"] is not None:
        yield f"tactics of {', '.join(options['tactic_sources']) or 'no source'}"
    if options["hardware_compatibility"] != "none":
        yield f"hardware compatibility {options['hardware_compatibility'].replace('_', ' ')}"
    if options["device"]:
        yield f"GPU {options['device']}"


_FLAGS = (
    *("version_compatible", "exclude_lean_runtime", "strip_weights", "refit", "sparsity"),
    *("embed_plugin", "allow_gpu_fallback", "implicit_int8"),
)


def _trtexec_lines(plan: BuildPlan) -> Iterator[str]:
    yield "The same build with trtexec, of the graph that --save-lowered writes:"
    yield "  " + " \\\n    ".join(map(shlex.quote, plan.trtexec))


def _range(profile: ShapeProfile, tensor: str) -> str:
    shapes = {kind: _shape(sizes[tensor]) for kind, sizes in profile.to_dict().items()}
    if len(set(shapes.values())) == 1:
        return f"{shapes['opt']} alone"
    return ", ".join(f"{kind} {shape}" for kind, shape in shapes.items())


def _shape(dims: Sequence[int]) -> str:
    return "x".join(map(str, dims)) or "scalar"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _and(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts) or "none"


def _size(num_bytes: int) -> str:
    for exponent, unit in ((30, "GiB"), (20, "MiB")):
        if num_bytes >= 1 << exponent:
            return f"{num_bytes / (1 << exponent):.1f} {unit}"
    return f"{num_bytes / 1024:.1f} KiB"
