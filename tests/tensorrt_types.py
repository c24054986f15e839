"""mypy of the files that speak with TensorRT, against the real classes of one version of it.

At run time the module is found by `import_tensorrt()`, and for plain mypy it is Any. Here mypy
reads a shadow of each file, line for line the same, in which `trt` is the module and each guard is
the truth for the version: what does not run there is not checked there. `tensorrt_names` says how
the files are written for that.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.tensorrt_bindings import ROOT, alone, bindings
from tests.tensorrt_names import Names, names, settle_guards, vocabulary
from tests.tensorrt_stubs import stubs

# What the package says to other libraries is plain mypy's business.
_CONFIG = """
[mypy]
follow_imports = skip
ignore_missing_imports = true
check_untyped_defs = true
explicit_package_bases = true
[mypy-edgeattn.*]
follow_imports = silent
[mypy-tensorrt.*]
follow_imports = normal
ignore_errors = true
"""


def type_errors(version: str, sources: Mapping[Path, str]) -> list[str]:
    """Type-check files against a version of the bindings, or skip the test.

    Args:
        version: Of the bindings.
        sources: Text by path; files of the package at their own paths.

    Returns:
        mypy's lines, paths relative to the repository.
    """
    return _mypy(version, sources, "types")


def untyped_uses(version: str, sources: Mapping[Path, str], own: frozenset[str]) -> list[str]:
    """List attributes of TensorRT's name that are asked of something typed as Any.

    Args:
        version: Of the bindings.
        sources: As `type_errors` takes them.
        own: Attributes that the package gives its own classes.

    Returns:
        File, line and use.
    """
    untyped: set[tuple[Path, int, int]] = set()
    for line in _mypy(version, sources, "any", "--disallow-any-expr", "--show-column-numbers"):
        if '"Any"' in line:
            file, at, column = re.match(r"(.+?):(\d+):(\d+):", line).groups()
            untyped.add((ROOT / file, int(at), int(column) - 1))
    found = []
    for path, text in sources.items():
        tree = ast.parse(text)
        imported = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or node.attr not in vocabulary() - own:
                continue
            owner = node.value
            if ast.unparse(owner).partition(".")[0] in imported | {"trt"}:
                continue  # of another library; or looked up by name
            if (path, owner.lineno, owner.col_offset) in untyped:
                found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    return found


def _mypy(version: str, sources: Mapping[Path, str], purpose: str, *options: str) -> list[str]:
    wheel = bindings(version)
    cache = wheel.folder / f"mypy-cache-{purpose}"
    with alone(cache), tempfile.TemporaryDirectory() as name:
        config = Path(name) / "mypy.ini"
        config.write_text(_CONFIG)
        command = [sys.executable, "-m", "mypy", f"--config-file={config}", f"--cache-dir={cache}"]
        command += ["--no-error-summary", "--hide-error-context", "--show-error-codes", *options]
        for number, (path, text) in enumerate(sources.items()):
            shadow = Path(name) / f"{number}.py"
            shadow.write_text(typed(text, names(version)))
            command += ["--shadow-file", str(path), str(shadow)]
        environment = os.environ | {"MYPYPATH": os.pathsep.join([str(stubs(wheel)), str(ROOT)])}
        done = subprocess.run(
            [*command, *map(str, sources)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def typed(text: str, version: Names) -> str:
    """Make a file say to mypy what `trt` is, and settle its guards."""
    text = settle_guards(text, version)
    lines = text.splitlines(keepends=True)
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node) == "trt = import_tensorrt()":
            _replace(lines, node, "trt =", "_ =")
        elif isinstance(node, ast.arg | ast.keyword) and node.arg == "trt":
            _replace(lines, node, "trt", "_trt")
    future = [node.end_lineno for node in tree.body if ast.unparse(node) == _FUTURE]
    if future:
        lines[future[0] - 1] = lines[future[0] - 1].rstrip("\n") + "; import tensorrt as trt\n"
    return "".join(lines)


_FUTURE = "from __future__ import annotations"


def _replace(lines: list[str], node: ast.stmt | ast.arg | ast.keyword, old: str, new: str) -> None:
    line, start = lines[node.lineno - 1].encode(), node.col_offset
    after = line[start:].decode().replace(old, new, 1)
    lines[node.lineno - 1] = line[:start].decode() + after
