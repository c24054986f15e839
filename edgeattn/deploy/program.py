"""The source that is sent to a board: the package `onboard`, as one Python program.

It needs no file on the board and no package there. The same source, kept in a file, is the process
that a deployment's steps run in.
"""

from __future__ import annotations

import functools
from importlib import resources

_PACKAGE = "edgeattn.deploy.onboard"

_LOADER = """
import importlib.abc, importlib.util, sys

if sys.version_info < (3, 8):  # which cannot even read the rest
    found = "%d.%d" % sys.version_info[:2]
    sys.exit("it is Python " + found + "; edgeattn needs 3.10, which --python may name")

class Sent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name in SOURCES:
            is_package = not name.startswith("edgeattn.deploy.onboard.")
            return importlib.util.spec_from_loader(name, self, is_package=is_package)

    def exec_module(self, module):
        name = module.__spec__.name
        exec(compile(SOURCES[name], "<" + name + ">", "exec"), module.__dict__)

sys.dont_write_bytecode = True
sys.meta_path.insert(0, Sent())
from edgeattn.deploy.onboard.main import main
"""


@functools.cache
def program() -> bytes:
    """Write the program."""
    sources = {"edgeattn": "", "edgeattn.deploy": ""}
    for file in resources.files(_PACKAGE).iterdir():
        stem, _, suffix = file.name.rpartition(".")
        if suffix == "py":
            name = _PACKAGE if stem == "__init__" else f"{_PACKAGE}.{stem}"
            sources[name] = file.read_text(encoding="utf-8")
    body = f"SOURCES = {dict(sorted(sources.items()))!r}\n{_LOADER}"
    # It hands its own source on: read from stdin (`p`), or from the file that it is run from.
    tail = 'main(globals().get("p") or open(__file__, "rb").read())\n'
    return (body + tail).encode()


def bootstrap(size: int) -> str:
    """Give the Python code that reads a program of so many bytes from stdin and runs it.

    There is neither a quote nor a blank in need of care in it but the one, so that it goes through
    any login shell in single quotes.
    """
    return f"import sys;p=sys.stdin.buffer.read({size});exec(p)"
