"""From the rows of a sweep to their page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeattn import __version__
from edgeattn.artifacts import write_bytes
from edgeattn.profiling.page.render import render
from edgeattn.profiling.page.words import count
from edgeattn.sweep.page import facts
from edgeattn.sweep.page.plots import front_plots
from edgeattn.sweep.page.tables import front_table, row_table
from edgeattn.sweep.pareto import Row, board_of, competitions

_OWN = "the model's own"


@dataclass(frozen=True)
class Choice:
    """Buttons that show the cases of one value of an axis, or all.

    Attributes:
        name: The axis, as the attributes of what the buttons hide are called.
        title: The axis in words.
        values: What there is to choose.
    """

    name: str
    title: str
    values: tuple[str, ...]


def render_sweep(rows: Sequence[Row], title: str, output: Path) -> None:
    """Write the page of a sweep.

    Args:
        rows: As `read_rows` gives them.
        title: What the page is called.
        output: File to write, `NAME.html`.

    Raises:
        ArtifactError: If the file cannot be written.
        MissingDependencyError: If jinja2 is not installed.
    """
    write_bytes(Path(output), sweep_html(rows, title).encode())


def sweep_html(rows: Sequence[Row], title: str) -> str:
    """Make the page of a sweep.

    Args:
        rows: As `read_rows` gives them.
        title: What the page is called.

    Raises:
        MissingDependencyError: If jinja2 is not installed.
    """
    groups = competitions(rows)
    by_case = {row["case"]: group for group in groups for row in group.rows}
    choices = _choices(rows)
    attributes = [{"id": f"case-{row['case']}", **_chosen_by(row, choices)} for row in rows]
    days = sorted({row["finished"][:10] for row in rows})
    values = {
        "title": title,
        "kind": "sweep",
        "subtitle": [count(len(rows), "case"), " to ".join(dict.fromkeys((days[0], days[-1])))]
        if rows
        else ["no case yet"],
        "version": __version__,
        "figures": facts.headline(rows, groups),
        "warnings": facts.warnings(rows),
        "choices": choices,
        "groups": [
            {
                "name": f"front-{number}",
                "title": facts.title_of(group, groups),
                "summary": facts.summary_of(group),
                "attributes": _chosen_by(group.rows[0], choices),
                "plots": front_plots(group, f"front-{number}"),
                "table": front_table(group, f"front-{number}-cases"),
            }
            for number, group in enumerate(groups, start=1)
        ],
        "table_of_cases": row_table(rows, by_case, attributes) if rows else None,
        "measurements": facts.measurements(rows),
        "machines": facts.machines(rows),
    }
    return render("sweep.html.j2", values)


def _choices(rows: Sequence[Row]) -> list[Choice]:
    """Find what there is to choose along the axes that have several values."""
    found = []
    for name, title in (("board", "Board"), ("batch", "Batch"), ("resolution", "Resolution")):
        values = dict.fromkeys(value for row in rows if (value := _value(row, name)))
        if len(values) > 1:
            found.append(Choice(name, title, tuple(values)))
    return found


def _chosen_by(row: Row, choices: Sequence[Choice]) -> dict[str, str]:
    """Give the attributes by which the buttons find a row; what is not known has none."""
    values = {choice: _value(row, choice.name) for choice in choices}
    return {
        f"data-{choice.name}": str(choice.values.index(value))
        for choice, value in values.items()
        if value
    }


def _value(row: Row, name: str) -> str:
    """Name the value that a row has on an axis; a case that failed has run on no machine."""
    asked = row["parameters"]
    if name == "batch":
        return str(asked["batch_size"] or _OWN)
    if name == "resolution":
        return str(asked["resolution"] or _OWN)
    return board_of(row) if row["status"] == "ok" else str(asked["board"])
