"""`edgeattn sweep`: many engines from one file, a row of figures for each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgeattn.artifacts import check_writable
from edgeattn.cli.console import print_json, print_table, size
from edgeattn.cli.options import FILE, json_option
from edgeattn.cli.progress import working
from edgeattn.errors import ArtifactError, EdgeAttnError

if TYPE_CHECKING:
    from edgeattn.sweep.run import SweepOutcome


@click.command("sweep", epilog="Example: edgeattn sweep sweep.toml -o swept --html swept.html")
@click.argument("spec", type=FILE)
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="DIR",
    help="Folder of rows, graphs, engines, reports and logs. Default: SPEC without its suffix.",
)
@click.option("--resume", is_flag=True, help="Go on with the rows that the folder has.")
@click.option(
    "--retry-failed", is_flag=True, help="The same, and run cases again whose row is an error."
)
@click.option(
    "--retry-throttled",
    is_flag=True,
    help="The same of cases whose clocks were held down while they were measured.",
)
@click.option(
    "--scheduler",
    metavar="tcp://HOST:PORT",
    help="Build and measure on the workers of this Dask scheduler. Default: here.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Seconds after which a case has failed: for its graphs, and again for its engine.",
)
@click.option("--html", type=FILE, metavar="FILE", help="The rows as a page: NAME.html")
@json_option
def command(spec: Path, html: Path | None, as_json: bool, **options: Any) -> None:
    """Build and measure many engines from one file.

    SPEC is a TOML file: models, precisions, batch sizes, resolutions, engines and options are
    multiplied out. Each case becomes a line of results.jsonl, a failed one too; the exit code is
    then 1. An asterisk marks what no other case beats.

    A results.jsonl in place of SPEC is shown, and nothing runs.
    """
    from edgeattn.sweep.page import render_sweep
    from edgeattn.sweep.results import read_rows
    from edgeattn.sweep.run import SweepOutcome, run_sweep

    if html:
        _check_page(html, spec, options["output"] or spec.with_suffix(""))
    if is_shown := spec.suffix == ".jsonl":
        _refuse_running_options()
        outcome = SweepOutcome(spec, tuple(read_rows(spec)), 0)
    else:
        with working() as progress:
            outcome = run_sweep(spec, progress=progress, **options)
    if html:
        render_sweep(outcome.rows, _title(spec), html)
    _show(outcome, as_json)
    if html and not as_json:
        click.echo(f"wrote {html}")
    if outcome.failed and not is_shown:
        row = outcome.failed[0]
        raise EdgeAttnError(
            f"{len(outcome.failed)} of {len(outcome.rows)} cases failed; the first, "
            f"{row['label']}: {row['error']['message']}",
            "the rows have each error, logs/ what was printed; --retry-failed runs them again",
        )


def _check_page(html: Path, spec: Path, folder: Path) -> None:
    """Refuse a page that could not be made, before hours of work; the sweep's folder may be new."""
    from edgeattn.profiling.page.render import require_jinja2
    from edgeattn.sweep.results import FILE_NAME

    require_jinja2()
    if html.absolute() in (spec.absolute(), (folder / FILE_NAME).absolute()):
        raise ArtifactError(f"{html} would be two files at once", "choose another name")
    if html.absolute().parent != folder.absolute() or folder.exists():
        check_writable(html)


def _refuse_running_options() -> None:
    """Refuse what only cases that run can have."""
    ctx = click.get_current_context()
    for option in ctx.command.params:
        is_given = ctx.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT
        if is_given and option.name not in ("spec", "html", "as_json"):
            raise click.UsageError(
                f"{option.opts[-1]} is for cases that run, and rows are only shown; give the "
                "sweep's TOML file"
            )


def _title(spec: Path) -> str:
    """Name the page after the file, or of rows after their folder, which is that of one sweep."""
    return spec.stem if spec.suffix != ".jsonl" else spec.absolute().parent.name


def _show(outcome: SweepOutcome, as_json: bool) -> None:
    from edgeattn.sweep.pareto import pareto_front

    front = pareto_front(outcome.rows)
    if as_json:
        print_json(
            {
                "file": str(outcome.path),
                "ran": outcome.ran,
                "failed": len(outcome.failed),
                "pareto": [row["case"] for row in outcome.rows if row["case"] in front],
                "rows": list(outcome.rows),
            }
        )
        return
    _print(outcome.rows, front)
    done = f"{len(outcome.rows)} cases, {outcome.ran} of them now" if outcome.ran else ""
    click.echo(f"wrote {outcome.path}: {done}" if done else f"{outcome.path}: nothing ran")
    if throttled := sum(row.get("verdict") == "throttled" for row in outcome.rows):
        click.echo(
            f"warning: {throttled} of {len(outcome.rows)} cases were throttled and compete with "
            "none; --retry-throttled measures them again",
            err=True,
        )


def _print(rows: tuple[dict[str, Any], ...], front: set[str]) -> None:
    from edgeattn.sweep.pareto import has_no_error

    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    cells = []
    for row in rows:
        found = row["figures"]
        if row["status"] != "ok":
            cells.append((row["label"], "", f"failed: {row['error']['step']}", *[""] * 6))
            continue
        cells.append(
            (
                row["label"],
                "*" if row["case"] in front else "",
                cell(found["p50_ms"], ".3f"),
                cell(found["p99_ms"], ".3f"),
                "∞" if has_no_error(row) else cell(found["sqnr_db"], ".1f"),
                cell(found["top1_b"], ".2f"),
                cell(found["energy_mj"], ".2f"),
                size(found["engine_bytes"]),
                row.get("verdict") or "-",
            )
        )
    columns = ("case", "", "p50 ms", "p99 ms", "SQNR dB", "top-1 %", "mJ", "size", "clocks")
    print_table(columns, cells)
