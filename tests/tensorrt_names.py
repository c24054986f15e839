"""Which names of TensorRT's a source uses, and whether a version of its real bindings has them.

How the package is written so that this can be read off it:

- `trt` is the module: a local `trt = import_tensorrt()` or a parameter of that name. In
  annotations it is `tensorrt`, imported under `TYPE_CHECKING`. Names are written out:
  `trt.BuilderFlag.REFIT`.
- A name that some versions lack stands where those versions do not come: in `if version.has_…:`
  (any property of `TensorRtVersion` that is a bool), after `if not version.has_…: raise`, in
  `if hasattr(x, "name"):`. The truth for the version that is looked at replaces each guard, and
  dead branches are dropped. So a guard that asks for the wrong thing is found too.
- Or it is reached by `getattr(x, "name")`, `getattr(x, "name", None)` or `setattr(x, "name", …)`.
  Such a name must exist in one of the versions at least, if x is behind `trt` or is called what
  TensorRT's objects are called: config, engine, _context, …

A name behind `trt` is looked up exactly. Of an attribute of anything else the class is not known
here: some class of the version must have it, if TensorRT's classes ever had it. What mypy knows of
the classes is checked in test_contract_types.py.
"""

from __future__ import annotations

import ast
import functools
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeattn.engine.tensorrt.versions import TensorRtVersion
from tests.tensorrt_bindings import ROOT, VERSIONS, bindings

PACKAGE = ROOT / "edgeattn"

# Gone with 10.0, which no wheel here is old enough to show, yet what old scripts and old answers on
# the web still use. Source: python/src of NVIDIA/TensorRT, release/8.6 against release/10.0.
GONE_BEFORE_10 = frozenset(
    """
    num_bindings get_binding_name get_binding_index get_binding_shape get_binding_dtype
    binding_is_input set_binding_shape is_shape_binding get_profile_shape execute_async
    execute_async_v2 execute build_engine build_cuda_engine max_batch_size max_workspace_size
    min_timing_iterations add_convolution add_pooling add_padding add_deconvolution
    add_fully_connected add_rnn_v2 STRICT_TYPES
    """.split()  # noqa: SIM905
)

# Attributes that Python's own objects and arrays have: behind anything but `trt` they mean those.
_OF_PYTHON = frozenset(
    name
    for kind in (str, bytes, memoryview, list, dict, set, Path, io.BufferedRandom, np.ndarray)
    for name in dir(kind)
)

# What variables and attributes that hold TensorRT's objects are called.
_OBJECTS = frozenset(
    """
    builder cache config context engine inspector logger memory monitor network parser profile
    profiler registry runtime tensor
    """.split()  # noqa: SIM905
)

# For every class: its members with the first line of their documentation, which pybind11 begins
# with the signature. The module itself goes by the empty name.
_DUMP = """
import inspect, json, tensorrt
def line(member):
    text = getattr(member, "fget", None) or member
    return (getattr(text, "__doc__", None) or "").strip().partition("\\n")[0]
def walk(name, found, into):
    members = {key: getattr(found, key) for key in dir(found)}
    into[name] = {key: line(member) for key, member in members.items()}
    for key, member in members.items():
        if inspect.isclass(member) and key[0] != "_":
            walk(f"{name}.{key}".lstrip("."), member, into)
    return into
print(json.dumps(walk("", tensorrt, {})))
"""


@dataclass(frozen=True)
class Names:
    """The names of one version of the bindings.

    Attributes:
        version: Of the wheel.
        classes: Members of each class, `""` for the module, with their signatures.
    """

    version: str
    classes: Mapping[str, Mapping[str, str]]

    def has(self, path: str) -> bool:
        """Tell whether a name behind the module is there, such as `BuilderFlag.REFIT`."""
        owner, _, name = path.rpartition(".")
        return name in self.classes.get(owner, {})

    def has_member(self, name: str) -> bool:
        """Tell whether some class has a member of that name."""
        return any(name in members for owner, members in self.classes.items() if owner)

    @functools.cached_property
    def guards(self) -> dict[str, bool]:
        """What each yes-or-no property of `TensorRtVersion` says of this version."""
        version = TensorRtVersion.parse(self.version)
        names = [key for key, item in vars(TensorRtVersion).items() if isinstance(item, property)]
        values = {name: getattr(version, name) for name in names}
        return {name: value for name, value in values.items() if isinstance(value, bool)}


@functools.cache
def names(version: str) -> Names:
    """Ask a version of the bindings for its names, or skip the test."""
    return Names(version, json.loads(bindings(version).run("-c", _DUMP)))


def sources() -> list[Path]:
    """List the files of the package that speak with TensorRT, or may."""
    files = [*PACKAGE.glob("engine/tensorrt/*.py")]
    others = (path for path in PACKAGE.rglob("*.py") if path not in files)
    return sorted(files + [path for path in others if "import_tensorrt" in path.read_text()])


@functools.cache
def vocabulary() -> frozenset[str]:
    """List the members that TensorRT's classes have in any version, or had before 10.0."""
    known = set(GONE_BEFORE_10)
    for version in VERSIONS:
        for owner, members in names(version).classes.items():
            known.update(members if owner else ())
    return frozenset(name for name in known - _OF_PYTHON if not name.startswith("_"))


def wrong_names(text: str, version: Names, own: frozenset[str] = frozenset()) -> list[str]:
    """List the names of TensorRT's in a source that a version does not have.

    Args:
        text: The source.
        version: What it has.
        own: Names of attributes that the package itself gives its classes: of those, one behind
            anything but `trt` need not be TensorRT's.

    Returns:
        One line per use: line number, what is used, the version that lacks it.
    """
    tree = ast.parse(settle_guards(text, version))
    uses = list(_uses(_alive(tree)))
    wrong = []
    for line, path, name in uses:
        if path is not None:
            found = version.has(path) or path in {"", "__version__"}
        else:
            found = name in own or name not in vocabulary() or version.has_member(name)
        if not found:
            wrong.append(f"{line}: {path or name} is not in TensorRT {version.version}")
    for line, path, name in _by_string(tree):
        if not any(_has(names(each), path, name) for each in VERSIONS):
            wrong.append(f"{line}: {name!r} is in no version of TensorRT")
    return sorted(set(wrong), key=lambda text: int(text.partition(":")[0]))


def hard_coded_flags(text: str) -> list[str]:
    """List where a source gives TensorRT a number for a set of enum members.

    Their numbers changed with 11.0: STRONGLY_TYPED is 1 before and 0 from then on (wheels).
    """
    found = []
    for node in ast.walk(ast.parse(text)):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in {"create_network", "set_tactic_sources"}:
                values = [*node.args, *(keyword.value for keyword in node.keywords)]
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(item, ast.Attribute) and item.attr == "flags" for item in targets):
                values = [node.value]
        for value in values:
            parts = [part for part in ast.walk(value) if isinstance(part, ast.expr)]
            number = all(isinstance(part, ast.Constant | ast.BinOp) for part in parts)
            if number and ast.unparse(value) != "0":
                found.append(f"{value.lineno}: {ast.unparse(value)} stands for members of an enum")
    return found


def own_attributes(trees: Iterator[ast.AST]) -> frozenset[str]:
    """List what classes of the package call their fields, methods and attributes."""
    found: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not any(map(_is_module, node.bases)):
                for item in ast.walk(node):
                    if isinstance(item, ast.FunctionDef):
                        found.add(item.name)
                    elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                        found.add(item.target.id)
                    elif isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store):
                        found.update({item.attr} if ast.unparse(item.value) == "self" else ())
    return frozenset(found)


def settle_guards(text: str, version: Names) -> str:
    """Put the truth for a version in place of each guard; every line stays on its line."""
    lines = text.encode().splitlines(keepends=True)
    guards = [node for node in ast.walk(ast.parse(text)) if _truth(node, version) is not None]
    for node in sorted(guards, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        first, last = node.lineno - 1, node.end_lineno - 1
        before, after = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
        lines[first] = before + str(_truth(node, version)).encode() + b" \\\n" * (last - first)
        lines[first] += after
        lines[first + 1 : last + 1] = [b""] * (last - first)
    return b"".join(lines).decode()


def _truth(node: ast.AST, version: Names) -> bool | None:
    """Tell what a guard says of a version; `None` for what is no guard."""
    if isinstance(node, ast.Attribute):
        return version.guards.get(node.attr)
    if isinstance(node, ast.Call) and _function(node) == "hasattr":
        path, name = _named_by_string(node)
        if name is not None and any(_has(names(each), path, name) for each in VERSIONS):
            return _has(version, path, name)
    return None


def _has(version: Names, path: str | None, name: str) -> bool:
    if path is None:
        return version.has_member(name)
    return version.has(f"{path}.{name}".lstrip("."))


def _uses(tree: ast.AST) -> Iterator[tuple[int, str | None, str]]:
    """Find attributes: line, path behind the module (`None` behind anything else), name."""
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            path = _path(node)
            if path is None:
                yield node.lineno, None, node.attr
                continue
            parts = path.split(".")
            while len(parts) > 1 and not parts[-2][0].isupper():
                parts.pop()  # of trt.get_plugin_registry.x only the function is a name
            yield node.lineno, ".".join(parts), node.attr
            chain = node.value
            while isinstance(chain, ast.Attribute):
                inner.add(id(chain))
                chain = chain.value


def _by_string(tree: ast.AST) -> Iterator[tuple[int, str | None, str]]:
    """Find names that getattr and its kin are given: line, path of their owner, name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _function(node) in {"getattr", "setattr", "hasattr"}:
            path, name = _named_by_string(node)
            called = ast.unparse(node.args[0]).rpartition(".")[2].lstrip("_")
            if name is not None and (path is not None or called in _OBJECTS):
                yield node.lineno, path, name


def _named_by_string(call: ast.Call) -> tuple[str | None, str | None]:
    owner, name = call.args[:2]
    if not isinstance(name, ast.Constant) or not isinstance(name.value, str):
        return None, None
    return _path(owner), name.value


def _function(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _path(node: ast.AST) -> str | None:
    """Write out what stands behind the module's name; `None` if it does not stand there."""
    if isinstance(node, ast.Attribute):
        before = _path(node.value)
        return None if before is None else f"{before}.{node.attr}".lstrip(".")
    return "" if _is_module(node) else None


def _is_module(node: ast.AST) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    if isinstance(node, ast.Call):
        return _function(node) == "import_tensorrt"
    return isinstance(node, ast.Name) and node.id in {"trt", "tensorrt"}


class _Alive(ast.NodeTransformer):
    """Drops what cannot run once the guards are settled."""

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        decides = isinstance(node.op, ast.Or)  # the value that ends the evaluation
        kept: list[ast.expr] = []
        for value in node.values:
            settled = _settled(value)
            if settled is None:
                kept.append(value)
            elif settled is decides:
                kept.append(value)
                break
        if not kept:
            return ast.copy_location(ast.Constant(not decides), node)
        if len(kept) == 1 or _settled(kept[0]) is decides:
            return kept[0]
        return ast.copy_location(ast.BoolOp(node.op, kept), node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        settled = _settled(node.operand)
        if isinstance(node.op, ast.Not) and settled is not None:
            return ast.copy_location(ast.Constant(not settled), node)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        settled = _settled(node.test)
        return node if settled is None else node.body if settled else node.orelse

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                setattr(node, field, list(_reached(block)))
        return node


def _reached(block: list[ast.stmt]) -> Iterator[ast.stmt]:
    for statement in block:
        if isinstance(statement, ast.If) and (settled := _settled(statement.test)) is not None:
            taken = statement.body if settled else statement.orelse
            yield ast.copy_location(ast.Expr(statement.test), statement)  # it runs all the same
            yield from taken
            last = taken[-1] if taken else None
        else:
            yield statement
            last = statement
        if isinstance(last, ast.Raise | ast.Return | ast.Continue | ast.Break):
            return


def _settled(node: ast.AST) -> bool | None:
    """Tell on what side an `if` comes down; `None` if that is open."""
    if isinstance(node, ast.BoolOp):
        decides = isinstance(node.op, ast.Or)
        return decides if any(_settled(value) is decides for value in node.values) else None
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return node.value
    return None


def _alive(tree: ast.Module) -> ast.AST:
    return _Alive().visit(tree)
