"""The scripted doubles of TensorRT have names and parameters that the real classes have.

A class of a double stands for the class of TensorRT that is called like it; what scripts it has
other names, or begins with an underscore. A double is for every version unless it names some in
`VERSIONS`, or names those of one member: `ONLY = {"BuilderFlag.FP16": ("10.3.0",)}`.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator

import pytest

from tests.edgeattn.engine.tensorrt.test_contract import versions_of
from tests.tensorrt_bindings import ROOT, VERSIONS, bindings
from tests.tensorrt_names import names
from tests.tensorrt_stubs import stubs

pytestmark = pytest.mark.bindings

DOUBLES = sorted((ROOT / "tests").glob("tensorrt_*_double.py"))

Parameters = list[str]


def classes(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield the classes of a module, nested ones under their full name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            name = f"{outer}.{node.name}".lstrip(".")
            yield name, node
            yield from classes(node, name)


def members(node: ast.ClassDef) -> Iterator[tuple[int, str, Parameters | None]]:
    """Yield what a class gives its objects: line, name, parameters of a method without self."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef):
            is_property = any(ast.unparse(mark) == "property" for mark in item.decorator_list)
            parameters = [argument.arg for argument in item.args.args][1:]
            yield item.lineno, item.name, None if is_property else parameters
            for inner in ast.walk(item):
                is_set = isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
                if is_set and ast.unparse(inner.value) == "self":
                    yield inner.lineno, inner.attr, None
        elif isinstance(item, ast.Assign | ast.AnnAssign):
            targets = item.targets if isinstance(item, ast.Assign) else [item.target]
            for target in targets:
                yield item.lineno, ast.unparse(target), None


@functools.cache
def real_parameters(version: str) -> dict[str, list[Parameters]]:
    """Read the parameters of every overload of every method off a version's stubs."""
    text = (stubs(bindings(version)) / "tensorrt" / "tensorrt.pyi").read_text()
    found: dict[str, list[Parameters]] = {}
    for name, node in classes(ast.parse(text)):
        for _, member, parameters in members(node):
            if parameters is not None:
                found.setdefault(f"{name}.{member}", []).append(parameters)
    return found


def only(tree: ast.Module) -> dict[str, tuple[str, ...]]:
    """Read which members of a double hold for some versions."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ONLY":
            return ast.literal_eval(node.value)
    return {}


def untrue(text: str, version: str) -> list[str]:
    """List what a double has and the real classes of a version have not."""
    real, found = names(version), []
    tree = ast.parse(text)
    for name, node in classes(tree):
        if name not in real.classes:
            continue
        for line, member, parameters in members(node):
            path = f"{name}.{member}"
            if member.startswith("_") or version not in only(tree).get(path, VERSIONS):
                continue
            if not real.has(path):
                found.append(f"{line}: {path} is not in TensorRT {version}")
                continue
            overloads = real_parameters(version).get(path, [])
            fits = any(parameters == each[: len(parameters or ())] for each in overloads)
            if overloads and parameters is not None and not fits:
                found.append(f"{line}: {path} takes {overloads}, not {parameters}")
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("double", DOUBLES, ids=lambda path: path.stem)
def test_a_double_has_what_the_real_classes_have(double, version):
    if version in versions_of(double):
        assert untrue(double.read_text(), version) == []


def test_every_double_says_what_it_is_and_stands_for_something():
    assert len(DOUBLES) == 2
    for double in DOUBLES:
        tree = ast.parse(double.read_text())
        assert "double" in (ast.get_docstring(tree) or "")
        played = {name for name, _ in classes(tree)} & set(names(VERSIONS[0]).classes)
        assert len(played) >= 3


@pytest.mark.parametrize(
    ("body", "version", "found"),
    [
        ("def serialise(self): pass", "10.3.0", "2: ICudaEngine.serialise is not in TensorRT"),
        ("device_memory_size = 1", "11.4.0.106", "2: ICudaEngine.device_memory_size is not in"),
        ("def __init__(self): self.layers = 1", "10.3.0", "2: ICudaEngine.layers is not in"),
        ("def get_tensor_mode(self, tensor): pass", "10.3.0", "get_tensor_mode takes [['name']]"),
        ("def get_tensor_name(self, index, x): pass", "11.4.0.106", "get_tensor_name takes [['in"),
    ],
)
def test_a_planted_untruth_is_found(body, version, found):
    (line,) = untrue(f"class ICudaEngine:\n    {body}\n", version)
    assert found in line


def test_a_member_of_some_versions_is_looked_up_in_those():
    text = 'ONLY = {"ICudaEngine.device_memory_size": ("10.3.0",)}\n'
    text += "class ICudaEngine:\n    device_memory_size = 1\n"
    assert untrue(text, "10.3.0") == untrue(text, "11.4.0.106") == []
    assert untrue(text.replace("memory", "mem"), "10.3.0") != []


@pytest.mark.parametrize(
    "body",
    [
        "device_memory_size_v2 = 1",
        "def __init__(self): self._script = 1",
        "def get_tensor_mode(self, name): pass",
        "def create_execution_context(self): pass",
        "def get_tensor_format(self, name, profile_index): pass",
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_true_is_no_false_alarm(body, version):
    assert untrue(f"class ICudaEngine:\n    {body}\n", version) == []
