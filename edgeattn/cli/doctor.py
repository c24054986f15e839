"""`edgeattn doctor`: is this machine fit for engines, and does it compute what it should?"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgeattn.cli.console import print_json, print_table
from edgeattn.cli.options import json_option
from edgeattn.cli.progress import working
from edgeattn.errors import EdgeAttnError

if TYPE_CHECKING:
    from edgeattn.deploy.findings import Finding


@click.command("doctor", epilog="Example: edgeattn doctor --selftest")
@click.option(
    "--selftest",
    is_flag=True,
    help="Build a small network too, in FP32, FP16 and INT8, and compare it with the CPU: with "
    "TensorRT where it is, else with the CPU engine.",
)
@json_option
def command(selftest: bool, as_json: bool) -> None:
    """Examine this machine, and say what to fix.

    Python, driver, CUDA, TensorRT, plugin library, board, memory, disk and clocks are looked at,
    and whether they go together. Nothing is changed. Each finding says what to do about it; the
    exit code is 1 if there is an error among them, something that cannot work.
    """
    from edgeattn.deploy.doctor import examine

    with working() as progress:
        found = examine(progress=progress)
    findings, values = list(found.findings), found.to_dict()
    if selftest:
        from edgeattn.deploy.selftest import run_selftest

        with working() as progress, tempfile.TemporaryDirectory(prefix="edgeattn-") as folder:
            cases = run_selftest(Path(folder), progress=progress)
        findings += [case.finding() for case in cases]
        values["selftest"] = [case.to_dict() for case in cases]
        values["passed"] = values["passed"] and all(case.passed for case in cases)
    if as_json:
        print_json(values)
    else:
        _print(findings)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        told = "; ".join(f"{finding.topic}: {finding.text}" for finding in errors)
        raise EdgeAttnError(f"{len(errors)} findings are errors: {told}", errors[0].fix)


def _print(findings: list[Finding]) -> None:
    print_table(
        ("", "looked at", "found"),
        [(finding.level, finding.topic, finding.text) for finding in findings],
    )
    for finding in findings:
        if finding.fix:
            click.echo(f"{finding.level}, {finding.topic}: {finding.fix}")
