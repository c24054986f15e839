"""Options that several verbs share, spelt the same everywhere.

Where trtexec has the option too, its spelling is accepted beside ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeattn.errors import SpecError
from edgeattn.inputs import InputSpec

Function = TypeVar("Function", bound=Callable[..., Any])

# That a file exists is checked where it is read, with an error that has a hint.
FILE = click.Path(path_type=Path)

# What `quantize` can write into a graph; the help must not import it to know.
PRECISIONS = ("int8", "fp16", "bf16", "int8+fp16", "int8+bf16")


def output_option(what: str, *spellings: str) -> Callable[[Function], Function]:
    """Give a verb its `-o FILE`.

    Args:
        what: The help: which file it is and its default name.
        *spellings: What else the option is called.
    """
    return click.option("-o", "--output", *spellings, "output", type=FILE, help=what)


def parse_input_specs(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> tuple[InputSpec, ...]:
    """Read `NAME:1x3x224x224` texts, several with commas as trtexec does; refuse other forms."""
    try:
        return tuple(InputSpec.parse(text) for value in values for text in value.split(","))
    except SpecError as err:
        raise click.BadParameter(err.message, ctx, param) from err


def parse_shapes(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Read the same texts as shapes by name."""
    specs = parse_input_specs(ctx, param, values)
    return {spec.name: tuple(int(dim) for dim in spec.shape) for spec in specs}


threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="Threads of the CPU engine. Default: as built.",
)
batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    default=8,
    show_default=True,
    help="Samples per batch, where the engine leaves that open.",
)
shapes_option = click.option(
    "--shapes",
    multiple=True,
    metavar="NAME:1x3x224x224",
    callback=parse_shapes,
    help="Shape of an input for random values, where the engine leaves it open.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def timing_options(function: Function) -> Function:
    """Give a verb `--iterations`, `--duration` and `--warm-up`, which mean what trtexec's do."""
    decorators = (
        click.option(
            "--iterations",
            type=click.IntRange(min=1),
            metavar="N",
            default=10,
            show_default=True,
            help="Least number of queries.",
        ),
        click.option(
            "--duration",
            type=click.FloatRange(min=0),
            metavar="S",
            default=3.0,
            show_default=True,
            help="Least time to measure, in seconds.",
        ),
        click.option(
            "--warm-up",
            "--warmUp",
            type=click.FloatRange(min=0),
            metavar="MS",
            default=200.0,
            show_default=True,
            help="Time to run before measuring, in milliseconds.",
        ),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


class EngineVerb(click.Command):
    """A verb whose file may also be given as trtexec wants it: `--loadEngine=FILE`."""

    file_option = "--loadEngine="

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Turn trtexec's spelling into the positional file."""
        return super().parse_args(ctx, [arg.removeprefix(self.file_option) for arg in args])


class GraphVerb(EngineVerb):
    """The same with `--onnx=FILE`."""

    file_option = "--onnx="
