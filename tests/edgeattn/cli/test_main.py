import os
import resource
import subprocess
import sys
import textwrap

import click
import pytest

from edgeattn import __version__
from edgeattn.cli import main as main_module
from edgeattn.cli.main import VERBS, cli, run
from edgeattn.errors import GraphError

EDGEATTN = [sys.executable, "-m", "edgeattn"]


def fails_with(monkeypatch, error):
    """Let `edgeattn models` raise an error."""

    @click.command("models")
    def command():
        raise error

    monkeypatch.setattr(
        main_module.LazyGroup,
        "get_command",
        lambda self, ctx, name: command if name == "models" else None,
    )


def test_help_is_fast_and_imports_no_framework():
    script = textwrap.dedent(
        """
        import sys
        from edgeattn.cli.main import run
        assert run(["--help"]) == 0
        heavy = {"torch", "onnx", "onnxruntime", "numpy", "rich", "PIL"} & sys.modules.keys()
        assert not heavy, heavy
        verbs = [name for name in sys.modules if name.startswith("edgeattn.cli.")]
        assert verbs == ["edgeattn.cli.main"], verbs
        """
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    # Processor time, since other work may run on the machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.2
    for verb, summary in VERBS.items():
        assert f"{verb} " in done.stdout
        assert summary in done.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_the_summary_of_the_table_and_an_example(verb, capsys):
    assert run([verb, "--help"]) == 0
    printed = capsys.readouterr().out
    flat = " ".join(printed.split())
    assert VERBS[verb] in flat
    assert f"Example: edgeattn {verb}" in flat


def test_a_verb_does_not_import_the_others():
    script = textwrap.dedent(
        """
        import sys
        from edgeattn.cli.main import run
        run(["inspect", "--help"])
        assert "edgeattn.cli.inspect" in sys.modules
        assert "edgeattn.cli.export" not in sys.modules
        assert "torch" not in sys.modules
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_version_is_that_of_the_package(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"edgeattn {__version__}\n"


def test_an_unknown_verb_names_the_near_misses_and_exits_with_2(capsys):
    assert run(["calibrat"]) == 2
    assert "there is no verb 'calibrat'; did you mean calibrate?" in capsys.readouterr().err
    assert run(["zzz"]) == 2
    assert "see edgeattn --help" in capsys.readouterr().err


def test_an_unknown_option_and_a_missing_argument_exit_with_2(capsys):
    assert run(["inspect", "--nonsense", "x"]) == 2
    assert run(["inspect"]) == 2
    assert run(["export", "m", "--input", "input:1xAx3"]) == 2
    captured = capsys.readouterr()
    assert "NAME:1x3x224x224" in captured.err
    assert captured.out == ""


def test_an_error_becomes_one_sentence_and_a_hint_on_stderr(monkeypatch, capsys):
    fails_with(monkeypatch, GraphError("the graph has\n no node", "export it again"))
    assert run(["models"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "Error: the graph has no node\nhint: export it again\n"
    assert captured.out == ""


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_the_traceback(how, monkeypatch, capsys):
    fails_with(monkeypatch, GraphError("the graph has no node"))
    if how == "environment":
        monkeypatch.setenv("EDGEATTN_DEBUG", "1")
    assert run(["--debug", "models"] if how == "option" else ["models"]) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.endswith("Error: the graph has no node\n")


def test_a_bug_asks_for_a_report_without_a_traceback(monkeypatch, capsys):
    fails_with(monkeypatch, ZeroDivisionError("division by zero"))
    assert run(["models"]) == 1
    printed = capsys.readouterr().err.splitlines()
    assert printed[0] == "Error: this is a bug in edgeattn: ZeroDivisionError: division by zero"
    assert printed[1].startswith("hint: please report it")
    assert len(printed) == 2


def test_an_interruption_is_one_line_and_exits_with_1(monkeypatch, capsys):
    fails_with(monkeypatch, KeyboardInterrupt())
    assert run(["models"]) == 1
    assert "Error: interrupted\n" in capsys.readouterr().err


def test_memory_that_runs_out_is_no_bug(monkeypatch, capsys):
    fails_with(monkeypatch, MemoryError())
    assert run(["models"]) == 1
    assert "out of memory" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["--help", "inspect --help", "models --json"])
def test_a_reader_that_goes_away_is_not_an_error_to_complain_of(line):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*EDGEATTN, *line.split()], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 1


def test_own_warnings_are_shown_and_the_libraries_only_on_request(capsys):
    script = textwrap.dedent(
        """
        import logging, sys, warnings
        from edgeattn.cli.main import _show_logs
        _show_logs(int(sys.argv[1]))
        logging.getLogger("edgeattn.models").warning("random weights")
        logging.getLogger("torch.onnx").warning("chatter")
        warnings.warn("deprecated")
        """
    )
    shown = [
        subprocess.run([sys.executable, "-c", script, verbose], capture_output=True, text=True)
        for verbose in "01"
    ]
    assert shown[0].stderr == "warning: random weights\n"
    assert "warning: chatter" in shown[1].stderr
    assert "deprecated" in shown[1].stderr


def test_python_m_edgeattn_is_the_same_command():
    done = subprocess.run([*EDGEATTN, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"edgeattn {__version__}\n"
    assert list(VERBS) == cli.list_commands(click.Context(cli))
