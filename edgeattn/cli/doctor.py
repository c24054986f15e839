"""`edgeattn doctor`: is a machine fit for engines, and does it compute what it should?"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from edgeattn.cli.console import print_json, print_table
from edgeattn.cli.options import board_options, json_option
from edgeattn.cli.progress import working
from edgeattn.deploy.findings import Finding
from edgeattn.errors import EdgeAttnError


@click.command("doctor", epilog="Example: edgeattn doctor --selftest")
@click.argument("board", required=False, metavar="[USER@HOST]")
@click.option(
    "--selftest",
    is_flag=True,
    help="Build a small network too, in FP32, FP16 and INT8, and compare it with the CPU: with "
    "TensorRT where it is, else with the CPU engine.",
)
@board_options
@json_option
def command(
    board: str | None,
    selftest: bool,
    folder: str,
    python: str,
    ssh_config: Path | None,
    as_json: bool,
) -> None:
    """Examine this machine or a board, and say what to fix.

    Python, driver, CUDA, TensorRT, plugin library, board, memory, disk and clocks are looked at,
    and whether they go together. Nothing is changed. Each finding says what to do about it; the
    exit code is 1 if there is an error among them, something that cannot work. What is printed
    names neither users nor hosts.

    A board is reached over SSH, with your config. Nothing needs to be installed there.
    """
    if board:
        from edgeattn.deploy.deploy import Reach
        from edgeattn.deploy.remote_doctor import examine_board

        # No bar: ssh may ask for a password.
        values = examine_board(board, Reach(folder, python, ssh_config), selftest=selftest)
    else:
        values = _examine_here(selftest)
    findings = [Finding(**finding) for finding in values["findings"]]
    findings += [Finding(**case["finding"]) for case in values.get("selftest", [])]
    if as_json:
        print_json(values)
    else:
        _print(findings)
    errors = [finding for finding in findings if finding.level == "error"]
    if errors:
        told = "; ".join(f"{finding.topic}: {finding.text}" for finding in errors)
        raise EdgeAttnError(f"{len(errors)} findings are errors: {told}", errors[0].fix)


def _examine_here(selftest: bool) -> dict[str, Any]:
    from edgeattn.deploy.doctor import examine

    with working() as progress:
        values = examine(progress=progress).to_dict()
    if selftest:
        from edgeattn.deploy.anonymous import anonymous
        from edgeattn.deploy.selftest import run_selftest

        with working() as progress, tempfile.TemporaryDirectory(prefix="edgeattn-") as folder:
            cases = run_selftest(Path(folder), progress=progress)
        findings = [anonymous(case.finding(), Path.home()) for case in cases]
        values["selftest"] = [
            case.to_dict() | {"finding": finding.to_dict()}
            for case, finding in zip(cases, findings, strict=True)
        ]
        values["passed"] = values["passed"] and all(case.passed for case in cases)
    return values


def _print(findings: list[Finding]) -> None:
    print_table(
        ("", "looked at", "found"),
        [(finding.level, finding.topic, finding.text) for finding in findings],
    )
    for finding in findings:
        if finding.fix:
            click.echo(f"{finding.level}, {finding.topic}: {finding.fix}")
