"""Tables in documents that are made from rows of results: blocks between comments of a page."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.past_rows import Row


def write_blocks(page: Path, blocks: Mapping[str, str]) -> None:
    """Replace what stands in a page between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

    Args:
        page: The file.
        blocks: What to write, by name. A name that the page does not hold once ends the script.
    """
    text = page.read_text()
    for name, block in blocks.items():
        pattern = rf"(?<=<!-- {name}:begin -->\n).*?(?=<!-- {name}:end -->)"
        text, found = re.subn(pattern, lambda _, b=block: f"{b}\n\n", text, flags=re.DOTALL)
        if found != 1:
            sys.exit(f"{page} has {found} blocks named {name}; expected one")
    page.write_text(text)


def with_origin(block: str, command: str, rows: Sequence[Row]) -> str:
    """Add to a table where its figures come from: command, days, machines, versions, commits."""
    if not rows:
        return "Not measured yet."

    def distinct(values: Sequence[str]) -> str:
        return ", ".join(sorted(set(values)))

    days = distinct([row["date"] for row in rows])
    commits = distinct([row["commit"] for row in rows])
    machines = distinct(
        [
            f"{row['environment']['cpu_model']}, {row['environment']['usable_cores']} cores"
            for row in rows
        ]
    )
    runtime = distinct([row["tools"]["onnxruntime"] for row in rows])
    origin = f"`{command}`, {days}: {machines}; ONNX Runtime {runtime}, commit {commits}."
    return f"{block}\n\n{origin}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
