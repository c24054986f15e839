"""`edgeattn sweep`: many engines from one file, a row of figures for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeattn.cli.console import print_json, print_table, size
from edgeattn.cli.options import FILE, json_option
from edgeattn.cli.progress import working
from edgeattn.errors import EdgeAttnError


@click.command("sweep", epilog="Example: edgeattn sweep sweep.toml -o swept")
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
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Seconds after which a case has failed: for its graphs, and again for its engine.",
)
@json_option
def command(
    spec: Path,
    output: Path | None,
    resume: bool,
    retry_failed: bool,
    retry_throttled: bool,
    scheduler: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Build and measure many engines from one file.

    SPEC is a TOML file: models, precisions, batch sizes, resolutions, engines and options are
    multiplied out. Each case becomes a line of results.jsonl, a failed one too; the exit code is
    then 1. An asterisk marks what no other case beats.
    """
    from edgeattn.sweep.pareto import pareto_front
    from edgeattn.sweep.run import run_sweep

    with working() as progress:
        outcome = run_sweep(
            spec,
            output,
            resume=resume,
            retry_failed=retry_failed,
            retry_throttled=retry_throttled,
            scheduler=scheduler,
            timeout_s=timeout,
            progress=progress,
        )
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
    else:
        _print(outcome.rows, front)
        click.echo(f"wrote {outcome.path}: {len(outcome.rows)} cases, {outcome.ran} of them now")
    if outcome.failed:
        row = outcome.failed[0]
        raise EdgeAttnError(
            f"{len(outcome.failed)} of {len(outcome.rows)} cases failed; the first, "
            f"{row['label']}: {row['error']['message']}",
            "the rows have each error, logs/ what was printed; --retry-failed runs them again",
        )


def _print(rows: tuple[dict[str, Any], ...], front: set[str]) -> None:
    def cell(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    cells = []
    for row in rows:
        found = row["figures"]
        if row["status"] != "ok":
            cells.append((row["label"], "", f"failed: {row['error']['step']}", *[""] * 5))
            continue
        cells.append(
            (
                row["label"],
                "*" if row["case"] in front else "",
                cell(found["p50_ms"], ".3f"),
                cell(found["p99_ms"], ".3f"),
                cell(found["sqnr_db"], ".1f"),
                cell(found["top1_b"], ".2f"),
                cell(found["energy_mj"], ".2f"),
                size(found["engine_bytes"]),
            )
        )
    print_table(("case", "", "p50 ms", "p99 ms", "SQNR dB", "top-1 %", "mJ", "size"), cells)
