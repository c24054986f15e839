"""`edgeattn deploy`: a bundle to boards, built, verified and measured there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeattn.cli.bundle_options import public_key_option
from edgeattn.cli.console import print_json, print_table, size
from edgeattn.cli.options import (
    FILE,
    board_options,
    json_option,
    shapes_option,
    timing_options,
)
from edgeattn.cli.progress import working_together
from edgeattn.errors import DeployError

if TYPE_CHECKING:
    from edgeattn.deploy.deploy import BoardProgress, Deployment, Reach


def _split(ctx: click.Context, param: click.Parameter, text: str) -> list[str]:
    """Read words as a shell does."""
    try:
        return shlex.split(text)
    except ValueError as err:
        raise click.BadParameter(str(err), ctx, param) from err


@click.command("deploy", epilog="Example: edgeattn deploy me@orin-1 me@orin-2 net.zip -o deployed")
@click.argument("boards_and_bundle", nargs=-1, required=True, metavar="USER@HOST... [BUNDLE]")
@click.option("--rollback", is_flag=True, help="Make the previous deployment current again.")
@click.option("--status", is_flag=True, help="List what is deployed.")
@click.option("--cancel", is_flag=True, help="Stop the deployment that runs on the board.")
@click.option(
    "--wheelhouse",
    type=FILE,
    metavar="DIR",
    help="Folder of Python packages for a board without a network; pip takes no others then.",
)
@public_key_option
@shapes_option
@click.option(
    "--no-doctor",
    is_flag=True,
    help="Go on without examining the board first; what the doctor calls an error ends it else.",
)
@timing_options
@click.option(
    "--profile-args",
    metavar="TEXT",
    default="",
    callback=_split,
    help="Other options of `edgeattn profile` there, as one text: '--mode trtexec-11'.",
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    metavar="DIR",
    default="deployed",
    show_default=True,
    help="Where manifests, reports and logs come back to, in a folder for each board.",
)
@board_options
@json_option
def command(
    boards_and_bundle: tuple[str, ...],
    rollback: bool,
    status: bool,
    cancel: bool,
    folder: str,
    python: str,
    wheelhouse: Path | None,
    public_key: Path | None,
    shapes: dict[str, tuple[int, ...]],
    no_doctor: bool,
    iterations: int,
    duration: float,
    warm_up: float,
    profile_args: list[str],
    output: Path,
    ssh_config: Path | None,
    as_json: bool,
) -> None:
    """Build, verify and profile a bundle on boards, over SSH.

    Boards are reached as `ssh` reaches them, with your config, keys and known hosts. What a board
    has already is not sent again, and a deployment goes on where it was cut off: give the same
    command again. It becomes current at its end, in one step; until then, and if anything fails,
    what was current stays.
    """
    from edgeattn.deploy.deploy import Reach

    reach = Reach(folder=folder, python=python, ssh_config=ssh_config)
    if rollback + status + cancel > 1:
        raise click.UsageError("--rollback, --status and --cancel exclude each other")
    if status:
        _print_status(boards_and_bundle, reach, as_json)
    elif rollback or cancel:
        _change(boards_and_bundle, reach, as_json, cancel=cancel)
    else:
        _deploy(
            boards_and_bundle,
            reach,
            as_json,
            wheelhouse=wheelhouse,
            public_key=public_key,
            shapes=shapes or None,
            profile_arguments=(
                *("--iterations", str(iterations)),
                *("--duration", f"{duration:g}"),
                *("--warm-up", f"{warm_up:g}"),
                *profile_args,
            ),
            examine=not no_doctor,
            output=output,
        )


def _deploy(words: Sequence[str], reach: Reach, as_json: bool, **options: Any) -> None:
    from edgeattn.deploy.deploy import deploy

    *destinations, bundle = words
    if not destinations:
        raise click.UsageError("give a board's address and the bundle")
    with working_together() as show:

        def notify(progress: BoardProgress) -> None:
            if progress.step == "connect" and not progress.detail:  # ssh may ask for a password
                click.echo(f"{progress.board}: connect", err=True)
                return
            detail = f": {progress.detail}" if progress.detail else ""
            show(progress.board, progress.done, progress.total, progress.step + detail)

        try:
            done = deploy(destinations, Path(bundle), reach=reach, notify=notify, **options)
        except KeyboardInterrupt:
            raise DeployError(
                "interrupted; what the boards were at goes on there",
                "the same command follows it again, --cancel stops it",
            ) from None
    if as_json:
        print_json({"deployments": [deployment.to_dict() for deployment in done]})
    else:
        _print(done)
    failed = [deployment for deployment in done if deployment.error]
    if failed:
        told = "; ".join(f"{d.board}: {d.error.message}" for d in failed if d.error)
        hints = [d.error.hint for d in failed if d.error]
        raise DeployError(f"{len(failed)} of {len(done)} deployments failed: {told}", hints[0])


def _print(done: Sequence[Deployment]) -> None:
    rows = []
    for deployment in done:
        state = "failed" if deployment.error else "current"
        times = ", ".join(f"{step} {s:.1f} s" for step, s in deployment.seconds.items())
        latency = "-" if deployment.p50_ms is None else f"{deployment.p50_ms:.3f}"
        sent = size(deployment.sent_bytes)
        rows.append((deployment.board, state, deployment.id, latency, sent, times or "-"))
    print_table(("board", "is", "deployment", "p50 ms", "sent", "done"), rows)
    for path in (path for deployment in done for path in deployment.files):
        if path.suffix == ".json":
            click.echo(f"wrote {path}")


def _print_status(destinations: Sequence[str], reach: Reach, as_json: bool) -> None:
    from edgeattn.deploy.deploy import connected

    with connected(destinations, reach) as boards:
        answers = {connection.name: board.status() for connection, board in boards}
    if as_json:
        print_json({"boards": answers})
        return
    rows = []
    for name, deployed in answers.items():
        busy = (deployed["busy"] or {}).get("work", "")
        for row in deployed["deployments"]:
            state = "current" if row["is_current"] else "previous" if row["is_previous"] else "kept"
            if row["id"] == busy:
                state = "at work"
            elif not row["is_finished"]:
                state = "unfinished"
            rows.append((name, state, row["id"], row["bundle"], row["finished_at"] or "-"))
        if not deployed["deployments"]:
            rows.append((name, "nothing", "-", "-", "-"))
    print_table(("board", "is", "deployment", "bundle", "finished"), rows)


def _change(destinations: Sequence[str], reach: Reach, as_json: bool, *, cancel: bool) -> None:
    from edgeattn.deploy.deploy import connected

    answers = {}
    with connected(destinations, reach) as boards:
        for connection, board in boards:
            if cancel:
                answers[connection.name] = {"cancelled": board.cancel()}
            else:
                answers[connection.name] = board.roll_back()
    if as_json:
        print_json({"boards": answers})
        return
    for name, answer in answers.items():
        if cancel:
            click.echo(f"{name}: {answer['cancelled'] or 'nothing'} was stopped")
        else:
            click.echo(
                f"{name}: {answer['current']} is current again, in place of "
                f"{answer['before'] or 'nothing'}"
            )
