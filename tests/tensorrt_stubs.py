"""Type stubs of NVIDIA's bindings, made from a wheel where it lies: none of it is kept here.

mypy's own stubgen reads the classes and the signatures that pybind11 writes into the documentation.
What those leave out of what the C++ side takes and gives is put in afterwards:

- pybind11 turns a tuple or list into `Dims`, and takes any sequence where it says `list`.
- It takes any of its objects for a pointer to void, which it calls a capsule.
- It gives `None` for a null pointer, and the signatures do not say so.
- It writes the C++ name of a class that was not bound yet; stubgen leaves such a function untyped.
- Objects that support the buffer protocol do not show it before Python 3.12, nor do those that can
  be iterated over by index.
"""

from __future__ import annotations

import ast
import hashlib
import re
import tempfile
from pathlib import Path

import mypy.version

from tests.tensorrt_bindings import Bindings, alone
from tests.tensorrt_names import Names, names

# Null on failure: NvInfer.h and NvInferRuntime.h of 10.3 and 11.1, the bindings' documentation of
# load_library; a timing cache that cannot be read.
MAY_BE_NONE = frozenset(
    [
        "Builder.build_serialized_network",
        "Runtime.deserialize_cuda_engine",
        "Runtime.load_runtime",
        "ICudaEngine.create_execution_context",
        "IExecutionContext.get_output_allocator",
        "IPluginRegistry.load_library",
        "IPluginRegistry.get_creator",
        "IBuilderConfig.create_timing_cache",
        "IBuilderConfig.get_timing_cache",
    ]
)
# What classes can do besides, by what Python does not list as a method.
PROTOCOLS = {
    # "This class exposes a buffer interface", says its documentation.
    "IHostMemory": "def __buffer__(self, flags: int) -> memoryview: ...",
    # By __getitem__ alone, which Python iterates over; stubgen says so of older pybind11 only.
    "Dims": "def __iter__(self) -> typing.Iterator[int]: ...",
}

_IMPORTS = "import builtins, collections.abc, types, typing, typing_extensions\n"
# Type names of pybind11 2.x that are no types, and `bool`, which the module uses for a data type.
_TYPES = {
    "buffer": "typing_extensions.Buffer",
    "capsule": "typing_extensions.CapsuleType",
    "bool": "builtins.bool",
    "List": "list",
    # What pybind11 3.x accepts is more than what TensorRT means.
    "typing.SupportsInt": "builtins.int",
    "typing.SupportsFloat": "builtins.float",
}
_PARAMETERS = {
    "capsule": "object",
    "typing_extensions.CapsuleType": "object",
    "Dims": "Dims | collections.abc.Sequence[builtins.int]",
    "list": "collections.abc.Sequence",
    "List": "collections.abc.Sequence",
}
# Where pybind11 writes an expression of C++ instead of a class.
SIGNATURES = {"get_plugin_registry": "() -> nvinfer1::IPluginRegistry"}
_CPP = re.compile(r"\b\w+::(?:v_\d_\d::)?(?:I(?=Builder\b|ParserError\b))?(\w+)")
_STUBGEN = "import sys, mypy.stubgen; mypy.stubgen.main(sys.argv[1:])"
# What the package adds in Python, in every version.
_FRONT_END = """
from collections.abc import Iterable
from typing import Any
from .tensorrt import *
__version__: str
def volume(iterable: Iterable[int]) -> int: ...
def nptype(trt_type: DataType) -> type[Any]: ...
"""


def stubs(bindings: Bindings) -> Path:
    """Make the stubs of a version, unless this code has made them before.

    Returns:
        The folder for mypy's path.
    """
    made_by = Path(__file__).read_bytes() + mypy.version.__version__.encode()
    folder = bindings.folder / f"stubs-{hashlib.sha256(made_by).hexdigest()[:12]}"
    with alone(folder), tempfile.TemporaryDirectory(dir=bindings.folder) as name:
        if not folder.is_dir():
            _write(bindings, Path(name) / "made")
            (Path(name) / "made").rename(folder)
    return folder


def _write(bindings: Bindings, folder: Path) -> None:
    bindings.run("-c", _STUBGEN, "--quiet", "-m", "tensorrt_bindings.tensorrt", "-o", str(folder))
    native = folder / "tensorrt_bindings" / "tensorrt.pyi"
    package = folder / "tensorrt"
    native.parent.rename(package)
    finished = finish((package / native.name).read_text(), names(bindings.version))
    (package / native.name).write_text(finished)
    (package / "__init__.pyi").write_text(_FRONT_END)


def finish(text: str, version: Names) -> str:
    """Put into the stub of the extension module what stubgen could not see."""
    tree = _Finish(version).visit(_parsed(text))
    return _IMPORTS + ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _parsed(text: str) -> ast.Module:
    """Parse a stub in which a parameter without a default may follow one with a default."""
    lines = text.splitlines()
    while True:
        try:
            return ast.parse("\n".join(lines))
        except SyntaxError as err:
            line = lines[err.lineno - 1]
            lines[err.lineno - 1] = re.sub(r"(\w+: [\w.]+)(?=[,)])", r"\1 = ...", line)
            if lines[err.lineno - 1] == line:
                raise


class _Finish(ast.NodeTransformer):
    def __init__(self, version: Names) -> None:
        self._version = version
        self._class = ""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        outer, self._class = self._class, f"{self._class}.{node.name}".lstrip(".")
        self.generic_visit(node)
        named = {getattr(item, "name", "") for item in node.body}
        extra = ast.parse(PROTOCOLS.get(self._class, "")).body
        node.body += [item for item in extra if getattr(item, "name", "") not in named]
        self._class = outer
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._take_signature(node)
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            if argument.annotation:
                argument.annotation = _renamed(argument.annotation, _TYPES | _PARAMETERS)
        if node.returns:
            node.returns = _renamed(node.returns, _TYPES)
            if f"{self._class}.{node.name}" in MAY_BE_NONE:
                node.returns = ast.BinOp(node.returns, ast.BitOr(), ast.Constant(None))
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = _renamed(node.annotation, _TYPES)
        return node

    def _take_signature(self, node: ast.FunctionDef) -> None:
        """Type a function whose signature has C++ names from its documentation."""
        signature = self._version.classes.get(self._class, {}).get(node.name, "")
        signature = signature if self._class else SIGNATURES.get(node.name, signature)
        if "::" not in signature or "::" in signature.partition("<")[2]:
            return  # all of it is known to stubgen; or a C++ template, which stays untyped
        signature = signature.replace("tensorrt_bindings.tensorrt.", "")
        signature = re.sub(r"= <[^>]*>", "= ...", signature)
        signature = _CPP.sub(lambda found: self._python(found[1]), signature)
        arguments = signature[signature.index("(") :]
        typed = ast.parse(f"def {node.name}{arguments}: ...").body[0]
        assert isinstance(typed, ast.FunctionDef)
        node.args, node.returns = typed.args, typed.returns

    def _python(self, name: str) -> str:
        return name if name in self._version.classes[""] else "typing.Any"


def _renamed(annotation: ast.expr, types: dict[str, str]) -> ast.expr:
    class Rename(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            name = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
            if name in types:
                return ast.parse(types[name], mode="eval").body
            return self.generic_visit(node)

    return Rename().visit(annotation)
