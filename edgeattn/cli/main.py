"""The command `edgeattn`: a group that imports a verb's module only when the verb is used.

`edgeattn --help` must answer at once on a board, so this module imports click and nothing heavier,
and the verbs' one-line helps stand here.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from edgeattn import __version__
from edgeattn.errors import EdgeAttnError

# In the order of the path, each with the first line of its own help.
VERBS = {
    "models": "List the models that come with edgeattn.",
    "export": "Export a PyTorch model to an ONNX graph.",
    "fuse": "Find window attention in a graph, and fuse it.",
    "calibrate": "Measure a graph's value ranges on real data.",
    "sensitivity": "Measure what INT8 costs in each layer.",
    "quantize": "Write INT8, FP16 or BF16 arithmetic into a graph.",
    "build": "Build an engine from a graph or a bundle.",
    "run": "Run an engine on inputs from a file.",
    "profile": "Measure an engine's latency and throughput.",
    "compare": "Compare engines, or reports of them: outputs, latency, modules.",
    "sweep": "Build and measure many engines from one file.",
    "inspect": "Describe any file that edgeattn writes or reads.",
    "check": "Check a graph for a board, without TensorRT.",
    "plugin": "Build the attention kernels and the TensorRT plugin; check one.",
    "bundle": "Pack a graph for boards that build, verify and run it.",
    "deploy": "Build, verify and profile a bundle on boards, over SSH.",
    "doctor": "Examine this machine or a board, and say what to fix.",
    "targets": "List the boards that engines are built for.",
    "demo": "Walk the whole path on the shipped model and images.",
}


@dataclass
class Settings:
    """What the global options ask for."""

    debug: bool = False


class LazyGroup(click.Group):
    """A group whose commands are the modules beside this one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the verbs in the order of the path."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb's module; `None` for an unknown verb."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"edgeattn.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or say which ones come close."""
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            near = difflib.get_close_matches(name, VERBS)
            meant = f"did you mean {' or '.join(near)}?" if near else "see edgeattn --help"
            ctx.fail(f"there is no verb {name!r}; {meant}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; an interruption is for `run` to report, not for click."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as err:
            raise click.Abort from err

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table, importing none of them."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: edgeattn demo",
)
@click.option("-v", "--verbose", count=True, help="Show what the libraries log; twice for more.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error (EDGEATTN_DEBUG=1).")
@click.version_option(__version__, message="edgeattn %(version)s")
@click.pass_obj
def cli(settings: Settings, verbose: int, debug: bool) -> None:
    """From a PyTorch model with multi-scale windowed attention to a profiled engine.

    Each verb reads files and writes one: export → calibrate → quantize → build → profile. Data goes
    to stdout, progress and errors to stderr.
    """
    settings.debug |= debug
    _show_logs(verbose)


class _EchoHandler(logging.Handler):
    """Writes log records to stderr as `warning: …`, beside `Error: …` and `hint: …`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        click.echo(f"{record.levelname.lower()}: {record.getMessage()}", err=True)


def _show_logs(verbose: int) -> None:
    """Show our own warnings; what the libraries say only if asked for."""
    levels = (logging.CRITICAL, logging.INFO, logging.DEBUG)
    logging.basicConfig(handlers=[_EchoHandler()], level=levels[min(verbose, 2)])
    logging.getLogger("edgeattn").setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    if not verbose:
        warnings.simplefilter("ignore")


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    The one place where errors become text: 0 is success, 1 a failure that the user can act on, an
    interruption, or a bug (which says so), 2 a misspelt command.
    """
    sys.exit(run(args))


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    settings = Settings(debug=os.environ.get("EDGEATTN_DEBUG", "") not in ("", "0"))
    try:
        code = cli.main(args, prog_name="edgeattn", standalone_mode=False, obj=settings)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our stdout had enough; what is buffered has no reader
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except click.ClickException as err:
        err.show()
        return err.exit_code
    except (click.Abort, KeyboardInterrupt):
        if sys.stderr.isatty():
            click.echo(err=True)  # the terminal has written ^C
        return _fail("interrupted", "nothing was left half-written")
    except EdgeAttnError as err:
        _show_traceback(settings)
        return _fail(err.message, err.hint)
    except MemoryError:
        _show_traceback(settings)
        return _fail("the machine ran out of memory", "use a smaller batch or fewer samples")
    except Exception as err:
        _show_traceback(settings)
        what = traceback.format_exception_only(type(err), err)[-1].strip()
        return _fail(
            f"this is a bug in edgeattn: {what}",
            "please report it with the output of the same command after `edgeattn --debug`",
        )
    return code if isinstance(code, int) else 0


def _fail(message: str, hint: str) -> int:
    click.echo(f"Error: {_one_line(message)}", err=True)
    if hint:
        click.echo(f"hint: {_one_line(hint)}", err=True)
    return 1


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _show_traceback(settings: Settings) -> None:
    if settings.debug:
        traceback.print_exc()
