"""The build report: what was built, beside what was asked for.

It is read back from the engine after each build and kept as the report of the engine's manifest, so
that `inspect` shows it for every engine, however long ago it was built. It never fails a build: an
engine whose inspector says nothing, or something that cannot be read, gets a report that says so.
What was required is judged from it: `check_required_precision` with `PrecisionShares.from_dict` of
its part `precision`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeattn.engine.tensorrt.attention_audit import audit_attention
from edgeattn.engine.tensorrt.inspector import EngineInfo, parse_engine_info
from edgeattn.engine.tensorrt.precision import asked_precisions, precision_shares
from edgeattn.errors import ArtifactError
from edgeattn.graph.nodes import node_label

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.build import TensorRtBuild
    from edgeattn.engine.tensorrt.lowering import LoweredForTensorRt
    from edgeattn.engine.tensorrt.options import ShapeProfile

_VERDICTS = {
    "plugin": "in our plugin",
    "fused": "in TensorRT's fused kernel",
    "unfused": "not fused",
    "unknown": "not known",
}
_KEPT_WARNINGS = 20  # of TensorRT's; the build's log has all
_MIB = 1 << 20


def make_build_report(
    build: TensorRtBuild, lowered: LoweredForTensorRt, profiles: Sequence[ShapeProfile]
) -> dict[str, Any]:
    """Compare an engine with the graph that it was built from.

    Args:
        build: What the build gave.
        lowered: The graph that TensorRT was given.
        profiles: The ranges of shapes that the engine was built for.

    Returns:
        JSON values for the engine's manifest.

    Raises:
        GraphError: If an attention node of the graph is malformed.
    """
    info, fault = _read(build.inspector)
    asked = asked_precisions(lowered)
    order = [node_label(node) for node in lowered.model.graph.node]
    findings = audit_attention(lowered.attention, info, asked, order)
    warnings = [line.text for line in build.log.warnings()]
    report = {
        "tensorrt": str(lowered.version),
        "asked": lowered.precision,
        "attention_way": lowered.way,
        "attention": [finding.to_dict() for finding in findings],
        "precision": precision_shares(info, asked).to_dict(),
        "inspector": {"schema": info.schema, "verbosity": info.verbosity, "fault": fault},
        "device_memory_bytes": build.device_memory_bytes,
        "plan_bytes": build.plan_bytes,
        "seconds": round(build.seconds, 3),
        "profiles": [profile.to_dict() for profile in profiles],
        "timing_cache": build.timing_cache,
        "plugin_libraries": [str(path) for path in build.used_plugin_libraries],
        "faults": list(lowered.faults),
        "warnings": warnings[:_KEPT_WARNINGS],
        "warning_count": len(warnings),
    }
    plain: dict[str, Any] = json.loads(json.dumps(report, allow_nan=False))
    return plain


def describe_report(report: Mapping[str, Any]) -> list[str]:
    """Put a build report into lines for people: what differs from what was asked is named."""
    return [
        *_describe_engine(report),
        *_describe_attention(report["attention"]),
        *_describe_precision(report["precision"]),
        *_describe_overhead(report["precision"]),
    ]


def _read(text: str) -> tuple[EngineInfo, str]:
    try:
        return parse_engine_info(text), ""
    except ArtifactError as err:
        return EngineInfo("10", (), (), "none"), err.message


def _describe_engine(report: Mapping[str, Any]) -> Iterator[str]:
    layers = report["precision"]["layers"]
    yield (
        f"TensorRT {report['tensorrt']}: {_count(layers, 'layer')}, built in "
        f"{report['seconds']:.0f} s; plan {_mib(report['plan_bytes'])}, device memory "
        f"{_mib(report['device_memory_bytes'])}"
    )
    inspector = report["inspector"]
    if inspector["fault"]:
        yield f"nothing can be shown of this engine: {inspector['fault']}"
    elif inspector["verbosity"] != "detailed":
        yield "little can be shown of this engine: build with --profiling-verbosity detailed"
    for fault in report["faults"]:
        yield f"the graph: {fault}"
    if report["warning_count"]:
        first = report["warnings"][0].splitlines()[0]
        yield f"TensorRT warned {_count(report['warning_count'], 'time')}, first: {first}"


def _describe_attention(attention: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not attention:
        return
    counts = Counter(each["verdict"] for each in attention)
    parts = [f"{counts[key]} {text}" for key, text in _VERDICTS.items() if counts[key]]
    yield f"attention: {', '.join(parts)}"
    for each in attention:
        if each["reasons"]:
            yield f"  {each['name']}, {_VERDICTS[each['verdict']]}: {'; '.join(each['reasons'])}"
    noted = Counter(note for each in attention for note in each.get("notes", ()))
    for note, count in noted.items():
        yield f"  {_count(count, 'attention')}: {note}"


def _describe_precision(precision: Mapping[str, Any]) -> Iterator[str]:
    asked = precision["asked"]
    if not asked:
        return
    parts = [f"{_count(count, 'product')} in {dtype}" for dtype, count in asked.items()]
    text = f"precision: the graph asks for {', '.join(parts)}"
    changed, unproven = precision["changed"], precision["unproven"]
    if not changed and not unproven:
        yield f"{text}, and so the engine computes them"
        return
    open_ends = [f"{len(changed)} changed"] if changed else []
    open_ends += [f"{len(unproven)} not shown"] if unproven else []
    yield f"{text}; {', '.join(open_ends)}"
    for each in changed:
        layers = ", ".join(each["layers"])
        yield f"  {each['node']} is {each['asked']} in the graph, {each['got']} in layer {layers}"
    for each in unproven:
        where = f"layer {', '.join(each['layers'])}" if each["layers"] else "no layer names it"
        yield f"  {each['node']} is {each['asked']} in the graph, not shown in the engine: {where}"


def _describe_overhead(precision: Mapping[str, Any]) -> Iterator[str]:
    """What runs besides the model's arithmetic."""
    parts = []
    if precision["reformats"]:
        parts.append(
            f"{_count(precision['reformats'], 'reformat')} "
            f"({_mib(precision['reformat_bytes'])} read and written)"
        )
    if precision["moves"]:
        parts.append(
            f"{_count(precision['moves'], 'kernel')} for moves and casts alone "
            f"({_mib(precision['move_bytes'])})"
        )
    if precision["quantize_layers"]:
        parts.append(f"{_count(precision['quantize_layers'], 'layer')} for Q/DQ alone")
    if parts:
        yield f"overhead: {', '.join(parts)}"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"
