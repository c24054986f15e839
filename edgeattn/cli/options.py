"""Options that several verbs share, spelt the same everywhere.

Where trtexec has the option too, its spelling is accepted beside ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from edgeattn.errors import SpecError
from edgeattn.spec import InputSpec

Function = TypeVar("Function", bound=Callable[..., Any])

# That a file exists is checked where it is read, with an error that has a hint.
FILE = click.Path(path_type=Path)

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


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
    """Read `NAME:1x3x224x224` texts; a text of another form is a misspelt option."""
    try:
        return tuple(InputSpec.parse(value) for value in values)
    except SpecError as err:
        raise click.BadParameter(err.message, ctx, param) from err


class EngineVerb(click.Command):
    """A verb whose file may also be given as trtexec wants it: `--loadEngine=FILE`."""

    file_option = "--loadEngine="

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Turn trtexec's spelling into the positional file."""
        return super().parse_args(ctx, [arg.removeprefix(self.file_option) for arg in args])


class GraphVerb(EngineVerb):
    """The same with `--onnx=FILE`."""

    file_option = "--onnx="
