"""What a verb says about the file it wrote: the file's own manifest, nothing of the verb's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeattn.cli.console import is_listing, print_fields, print_json, size

if TYPE_CHECKING:
    from edgeattn.artifacts import Manifest


def print_written(path: Path | None, manifest: Manifest, as_json: bool) -> None:
    """Print what a file that was just written says of itself.

    Args:
        path: The file; `None` if a dry run wrote none.
        manifest: Its manifest. People see the report in it, without what is listed item by item.
        as_json: Print all of it as JSON.
    """
    if as_json:
        print_json({"file": None if path is None else str(path), **manifest.to_dict()})
        return
    if path is None:
        click.echo("nothing written; it would be")
    else:
        click.echo(f"wrote {path} ({size(path.stat().st_size)})")
    print_fields({k: v for k, v in manifest.report.items() if not is_listing(v)}, indent=2)
