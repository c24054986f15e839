"""Options of the verbs that take a bundle where they take a graph or an engine."""

from __future__ import annotations

from pathlib import Path

import click

from edgeattn.cli.options import FILE, Function

public_key_option = click.option(
    "--public-key",
    type=FILE,
    metavar="PEM",
    help="Refuse a bundle that is not signed with this Ed25519 key.",
)


def rebuild_options(function: Function) -> Function:
    """Give a verb `--rebuild-if-needed`, `--bundle` and `--public-key`."""
    decorators = (
        click.option(
            "--rebuild-if-needed",
            is_flag=True,
            help="Build a sealed engine again, from its bundle, if TensorRT, GPU, L4T or plugin "
            "are no longer those that it was verified with.",
        ),
        click.option(
            "--bundle",
            type=FILE,
            help="The bundle to build it from. Default: its own, beside the engine.",
        ),
        public_key_option,
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def check_rebuild(rebuild_if_needed: bool, bundle: Path | None) -> None:
    """Refuse a bundle that nothing would be built from."""
    if bundle is not None and not rebuild_if_needed:
        raise click.UsageError("--bundle goes with --rebuild-if-needed")
