"""Recipes for containers and CI: linted, and their commands are the command line's own."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edgeattn.cli.main import cli
from edgeattn.targets import get_target

RECIPES = Path(__file__).parents[1] / "docs/recipes"
DOCKERFILE, WORKFLOW = RECIPES / "jetson.Dockerfile", RECIPES / "jetson-runner.yml"
PROGRAMS = Path(sys.executable).parent


def lint(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if not (PROGRAMS / program).is_file():
        pytest.skip(f"needs {program} (extra `dev`)")
    command = [str(PROGRAMS / program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check_workflow(path: Path) -> subprocess.CompletedProcess[str]:
    return lint("check-jsonschema", "--builtin-schema", "vendor.github-workflows", path)


def commands(recipe: Path) -> list[str]:
    """List what a recipe has `edgeattn` do."""
    text = recipe.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    found = (re.search(r"(?<![-\w/])edgeattn (\w.*)", line) for line in lines)
    return [match[1].partition(" && ")[0].strip() for match in found if match]


def test_the_dockerfile_has_no_fault_that_hadolint_knows(tmp_path: Path) -> None:
    done = lint("hadolint", DOCKERFILE)
    assert done.returncode == 0, done.stdout
    bad = tmp_path / "Dockerfile"
    bad.write_text(DOCKERFILE.read_text() + "RUN cd /tmp && sudo make\n")
    assert lint("hadolint", bad).returncode == 1


def test_the_workflow_is_one(tmp_path: Path) -> None:
    done = check_workflow(WORKFLOW)
    assert done.returncode == 0, done.stdout
    bad = tmp_path / "bad.yml"
    bad.write_text(WORKFLOW.read_text().replace("timeout-minutes: 60", "timeout-minuets: 60"))
    assert check_workflow(bad).returncode == 1


@pytest.mark.parametrize("recipe", [DOCKERFILE, WORKFLOW], ids=lambda path: path.name)
def test_each_command_is_spelt_as_the_command_line_has_it(recipe: Path) -> None:
    typed = commands(recipe)
    assert typed
    for line in typed:
        name, *words = shlex.split(line)
        command = cli.get_command(click.Context(cli), name)
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None, line
        command.make_context(name, words)  # reads the options and runs nothing


def test_the_image_is_for_a_target_that_there_is() -> None:
    (target,) = re.findall(r"^ARG TARGET=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert get_target(target).machine == "aarch64"
