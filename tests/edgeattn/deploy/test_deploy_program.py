"""The program that is sent: it has to run on boards that have nothing yet."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from edgeattn.deploy.program import bootstrap, program

SOURCES = sorted(
    Path(str(file))
    for file in resources.files("edgeattn.deploy.onboard").iterdir()
    if file.name.endswith(".py")
)
ITSELF = "edgeattn.deploy.onboard"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_it_imports_nothing_but_python_and_itself(source: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            imported.add(node.module)
    foreign = {
        name
        for name in imported
        if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith(ITSELF)
    }
    assert not foreign


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_python_that_is_too_old_can_read_it_and_be_told_so(source: Path) -> None:
    ast.parse(source.read_text(), feature_version=(3, 8))


def test_it_is_the_same_each_time_and_holds_every_module() -> None:
    assert program() == program.__wrapped__()
    for source in SOURCES:
        name = ITSELF if source.stem == "__init__" else f"{ITSELF}.{source.stem}"
        assert repr(name).encode() in program()


def test_what_starts_it_passes_through_any_login_shell() -> None:
    code = bootstrap(12345)
    assert not set("'\"\\$`!#&|<>*?{}~") & set(code)


def test_a_python_that_cannot_read_it_is_told_so_too() -> None:
    source = program()
    old = f"import sys;sys.version_info=(3,6,9);{bootstrap(len(source))}"
    done = subprocess.run([sys.executable, "-I", "-c", old], input=source, capture_output=True)
    assert done.returncode == 1
    assert done.stderr == b"it is Python 3.6; edgeattn needs 3.10, which --python may name\n"
