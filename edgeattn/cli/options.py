"""Options that several verbs share, spelt the same everywhere.

Where trtexec has the option too, its spelling is accepted beside ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

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


def board_options(function: Function) -> Function:
    """Give a verb `--folder`, `--python` and `--ssh-config`, which say how a board is reached."""
    decorators = (
        click.option(
            "--folder",
            metavar="DIR",
            default="~/edgeattn-deployed",
            show_default=True,
            help="Where everything that is deployed is on the board.",
        ),
        click.option(
            "--python",
            metavar="PROGRAM",
            default="python3",
            show_default=True,
            help="The board's Python: on a Jetson the one that its TensorRT is for.",
        ),
        click.option(
            "--ssh-config",
            type=FILE,
            help="A config of ssh in place of your own, ~/.ssh/config.",
        ),
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


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


class GroupedOption(click.Option):
    """An option that `--help` lists under a heading of its own.

    Args:
        param_decls: As click's.
        group: The heading.
        **attributes: As click's.
    """

    def __init__(self, param_decls: Sequence[str], group: str = "Options", **attributes: Any):
        super().__init__(param_decls, **attributes)
        self.group = group


def given_options(values: dict[str, Any], group_prefix: str) -> dict[str, Any]:
    """Take the options of some groups out of a command's values.

    Args:
        values: What click gives the command; changed.
        group_prefix: What the headings of the groups begin with.

    Returns:
        Those that the user set, by parameter name; what is a default is dropped.
    """
    ctx = click.get_current_context()
    taken = {
        option.name: values.pop(option.name)
        for option in ctx.command.params
        if isinstance(option, GroupedOption)
        and option.group.startswith(group_prefix)
        and option.name in values
    }
    default = ParameterSource.DEFAULT
    return {
        name: value
        for name, value in taken.items()
        if name and ctx.get_parameter_source(name) is not default
    }


class EngineVerb(click.Command):
    """A verb whose file may also be given as trtexec wants it: `--loadEngine=FILE`.

    Its help lists options under their headings.
    """

    file_option = "--loadEngine="

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Turn trtexec's spelling into the positional file."""
        return super().parse_args(ctx, [arg.removeprefix(self.file_option) for arg in args])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group in the order in which groups first appear."""
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                groups.setdefault(getattr(param, "group", "Options"), []).append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


class GraphVerb(EngineVerb):
    """The same with `--onnx=FILE`."""

    file_option = "--onnx="
