"""`edgeattn check`: what would become of a graph on a board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeattn.cli.console import count, print_fields, print_json, print_table, size
from edgeattn.cli.options import FILE, GraphVerb, json_option
from edgeattn.cli.progress import working
from edgeattn.cli.tensorrt_options import tensorrt_check_options
from edgeattn.errors import EdgeAttnError

if TYPE_CHECKING:
    from edgeattn.deploy.check.bound import LatencyBound
    from edgeattn.deploy.check.check import GraphCheck
    from edgeattn.deploy.check.memory import MemoryEstimate
    from edgeattn.engine.tensorrt.request import TensorRtRequest

_SHOWN_LAYERS = 8
_SHOWN_ALIKE = 3  # findings that differ in the node alone


@click.command(
    "check",
    cls=GraphVerb,
    epilog="Example: edgeattn check net.int8.onnx --target jetson-orin-nano --jetpack 6.2",
)
@click.argument("graph", type=FILE)
@click.option(
    "--memory",
    "module_gib",
    type=click.IntRange(min=1),
    metavar="GIB",
    help="Memory of the board's module, which tells which one it is. Default: the largest of its "
    "kind.",
)
@tensorrt_check_options
@json_option
def command(
    graph: Path, module_gib: int | None, as_json: bool, tensorrt: TensorRtRequest | None
) -> None:
    """Check a graph for a board, without TensorRT.

    Operators and their types, integers, shapes, precisions that the board lacks, the plugin, Q/DQ,
    attention that will not fuse, LayerNorm in pieces, and memory are looked at; the least time of a
    query is worked out. Each finding says what to do about it; the exit code is 1 if there is an
    error among them.
    """
    from edgeattn.deploy.check.check import check_graph

    with working() as progress:
        checked = check_graph(graph, tensorrt, module_gib=module_gib, progress=progress)
    if as_json:
        print_json(checked.to_dict())
    else:
        _print(checked)
    errors = checked.errors
    if errors:
        told = "; ".join(dict.fromkeys(f"{each.topic}: {each}" for each in errors[:_SHOWN_ALIKE]))
        more = f"; and {len(errors) - _SHOWN_ALIKE} more" if len(errors) > _SHOWN_ALIKE else ""
        raise EdgeAttnError(
            f"{checked.graph} will not run there as it is: {told}{more}", errors[0].fix
        )


def _print(checked: GraphCheck) -> None:
    where = checked.where
    sms = ", ".join(f"sm_{number}" for number in where.architectures)
    fields = {
        "for": f"{where.title}{f' ({sms})' if sms else ''}",
        "TensorRT": f"{where.version}: {where.version_reason}",
    }
    if checked.memory is not None:
        fields |= _memory_fields(checked.memory)
    if checked.bound is not None:
        fields |= _bound_fields(checked.bound)
    print_fields(fields)
    if checked.bound is not None:
        _print_layers(checked.bound)
    _print_findings(checked)


def _memory_fields(memory: MemoryEstimate) -> dict[str, str]:
    activations = memory.activations_bytes
    text = f"{size(memory.weights_bytes)} of weights, "
    text += (
        "activations not known"
        if activations is None
        else (f"up to {size(activations)} of activations if nothing is fused")
    )
    if memory.available_bytes is not None:
        text += f"; {size(memory.available_bytes)} free on a board of {memory.module_gib} GiB"
    return {"memory": text, "": f"a build usually takes about {size(memory.build_bytes)} besides"}


def _bound_fields(bound: LatencyBound) -> dict[str, str]:
    if bound.layers_ms is None:
        return {}
    floor = "" if bound.floor_ms is None else f"; {bound.floor_ms:.3g} ms if all but the weights "
    floor += "stays in caches" if floor else ""
    return {
        "least time": f"{bound.layers_ms:.3g} ms a query, a bound, if each layer is one kernel"
        + floor,
        "figures of": bound.device,
    }


def _print_layers(bound: LatencyBound) -> None:
    timed = [layer for layer in bound.layers if layer.least_ms is not None]
    timed.sort(key=lambda layer: layer.least_ms or 0.0, reverse=True)
    if timed:
        rows = [
            (
                layer.node,
                f"{layer.least_ms or 0.0:.3g}",
                layer.bound,
                layer.precision,
                size(layer.bytes),
                count(layer.products),
            )
            for layer in timed[:_SHOWN_LAYERS]
        ]
        print_table(("layer", "least ms", "bound by", "type", "moves", "operations"), rows)
    if len(timed) > _SHOWN_LAYERS:
        click.echo(f"and {len(timed) - _SHOWN_LAYERS} more layers; --json shows them")


def _print_findings(checked: GraphCheck) -> None:
    if not checked.findings:
        click.echo("nothing speaks against it")
        return
    alike: dict[tuple[str, str, str, str], list[str]] = {}
    for each in checked.findings:
        alike.setdefault((each.level, each.topic, each.reason, each.fix), []).append(each.node)
    for (level, topic, reason, fix), nodes in alike.items():
        named = ", ".join(filter(None, nodes[:_SHOWN_ALIKE]))
        named += f" and {len(nodes) - _SHOWN_ALIKE} more" if len(nodes) > _SHOWN_ALIKE else ""
        click.echo(f"{level}, {topic}: {f'{named}: ' if named else ''}{reason}")
        if fix:
            click.echo(f"  {fix}")
