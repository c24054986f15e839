"""The package speaks with TensorRT's classes as each version of the real bindings has them."""

from __future__ import annotations

import ast

import pytest

from tests.tensorrt_bindings import VERSIONS
from tests.tensorrt_names import names, own_attributes, sources, wrong_names
from tests.tensorrt_stubs import MAY_BE_NONE, PROTOCOLS, SIGNATURES
from tests.tensorrt_types import type_errors, typed, untyped_uses

pytestmark = pytest.mark.bindings

FLOOR, NEWEST = VERSIONS[0], VERSIONS[-1]


def texts() -> dict:
    return {path: path.read_text() for path in sources()}


@pytest.mark.parametrize("version", VERSIONS)
def test_the_package_fits_the_classes_of_every_version(version):
    assert type_errors(version, texts()) == []


def test_what_is_asked_of_tensorrts_objects_is_asked_of_their_classes():
    """Else mypy would see Any, and nothing of the above would be checked there."""
    own = own_attributes(map(ast.parse, texts().values()))
    assert untyped_uses(NEWEST, texts(), own) == []


HEAD = """
from __future__ import annotations
from typing import TYPE_CHECKING, Any, BinaryIO
from edgeattn.engine.tensorrt.imports import import_tensorrt
from edgeattn.engine.tensorrt.versions import TensorRtVersion
if TYPE_CHECKING:
    import tensorrt
def planted(
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    profile: tensorrt.IOptimizationProfile,
    runtime: tensorrt.Runtime,
    engine: tensorrt.ICudaEngine,
    context: tensorrt.IExecutionContext,
    registry: tensorrt.IPluginRegistry,
    parser: tensorrt.OnnxParser,
    version: TensorRtVersion,
    stream: BinaryIO,
) -> None:
    trt = import_tensorrt()
"""

ALL, NONE = (FLOOR, NEWEST), ()

# A statement, the versions of the two looked at in which it is wrong, and what mypy says there.
PLANTED = [
    ("config.set_flag(trt.BuilderFlag.FP16)", (NEWEST,), 'has no attribute "FP16"'),
    ("engine.device_memory_size", (NEWEST,), 'has no attribute "device_memory_size"; maybe "dev'),
    ("config.max_workspace_size = 1 << 30", ALL, 'has no attribute "max_workspace_size"'),
    ("config.max_num_tactics = 3", (FLOOR,), 'has no attribute "max_num_tactics"'),
    ("context.num_io_tensors", ALL, '"IExecutionContext" has no attribute "num_io_tensors"'),
    ("config.set_flag(0)", ALL, 'incompatible type "int"; expected "BuilderFlag"'),
    ("config.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)", ALL, 'expected "BuilderFlag"'),
    ("parser.set_flag(0)", ALL, 'incompatible type "int"; expected "OnnxParserFlag"'),
    ("config.profiling_verbosity = 2", ALL, 'variable has type "ProfilingVerbosity"'),
    (
        "config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size=1)",
        ALL,
        'Unexpected keyword argument "size" for "set_memory_pool_limit"',
    ),
    ("config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)", ALL, "Missing positional"),
    ("builder.build_serialized_network(network, config).nbytes", ALL, '"None" of "IHostMemory'),
    ("runtime.deserialize_cuda_engine(b'').num_layers", ALL, '"None" of "ICudaEngine | None"'),
    ("engine.create_execution_context().infer_shapes()", ALL, '"None" of "IExecutionContext'),
    ("registry.deregister_library(registry.load_library(''))", NONE, ""),
    ("trt.get_plugin_registry().load_library(1)", ALL, 'expected "str"'),
    ("engine.get_tensor_shape(0)", ALL, 'incompatible type "int"; expected "str"'),
    ("profile.set_shape('x', 1, 2, 3)", ALL, 'expected "Dims | Sequence[int]"'),
    ("parser.get_error(0).text()", ALL, '"ParserError" has no attribute "text"'),
    (
        "class Log(trt.ILogger):\n        def log(self, severity: str) -> None: ...",
        ALL,
        "[override]",
    ),
    ("class Timer(trt.IProfilers): ...", ALL, '"trt.IProfilers" is not defined'),
    # What is right is no false alarm.
    ("config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, pool_size=1)", NONE, ""),
    ("profile.set_shape('x', (1, 3), [2, 3], trt.Dims([4, 3]))", NONE, ""),
    ("context.set_input_shape('x', tuple(engine.get_tensor_shape('x')))", NONE, ""),
    ("stream.write(engine.serialize())", NONE, ""),
    (
        "builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))",
        NONE,
        "",
    ),
    ("flag: tensorrt.BuilderFlag = getattr(trt.BuilderFlag, 'FP16')", NONE, ""),
    ("if version.has_weak_typing:\n        config.set_flag(trt.BuilderFlag.FP16)", NONE, ""),
    ("if version.has_max_num_tactics:\n        config.max_num_tactics = 3", NONE, ""),
    ("if hasattr(engine, 'device_memory_size'):\n        engine.device_memory_size", NONE, ""),
    # A guard that asks for something else.
    ("if version.has_dla:\n        config.max_num_tactics = 3", (FLOOR,), "max_num_tactics"),
    ("if not version.has_dla:\n        trt.BuilderFlag.FP16", (NEWEST,), "FP16"),
]


@pytest.fixture(scope="module", params=[FLOOR, NEWEST])
def errors(request, tmp_path_factory) -> tuple[str, dict[int, list[str]]]:
    """Check all statements at once, each in a function of its own; mypy's lines of each."""
    imports, function = HEAD[: HEAD.index("def planted")], HEAD[HEAD.index("def planted") :]
    text, starts = imports, []
    for number, (statement, _, _) in enumerate(PLANTED):
        starts.append(text.count("\n") + 1)
        text += function.replace("planted", f"planted_{number}") + f"    {statement}\n"
    file = tmp_path_factory.mktemp("planted") / "planted.py"
    file.write_text(text)
    found: dict[int, list[str]] = {number: [] for number in range(len(PLANTED))}
    for line in type_errors(request.param, {file: text}):
        at = int(line.removeprefix(str(file)).split(":")[1])
        found[sum(at >= start for start in starts) - 1].append(line)
    return request.param, found


@pytest.mark.parametrize("number", range(len(PLANTED)), ids=[line for line, _, _ in PLANTED])
def test_a_planted_mistake_is_found_where_it_is_one(number, errors):
    (version, found), (_, wrong_in, said) = errors, PLANTED[number]
    if version in wrong_in:
        assert any(said in line for line in found[number]), found[number]
    else:
        assert found[number] == []


# A name that the package uses, one in its place, and a version where that is wrong.
MISTAKEN = [
    (".build_serialized_network(", ".build_engine(", FLOOR),
    (".device_memory_size_v2", ".device_memory_size", NEWEST),
    (".set_memory_pool_limit(", ".max_workspace_size(", NEWEST),
    ("trt.BuilderFlag.STRIP_PLAN", "trt.BuilderFlag.WEIGHTLESS", NEWEST),
]


@pytest.mark.parametrize(("right", "mistaken", "version"), MISTAKEN)
def test_a_mistake_in_the_package_itself_is_found(right, mistaken, version):
    path = next(path for path, text in texts().items() if right in text)
    text = path.read_text().replace(right, mistaken)
    own = own_attributes(map(ast.parse, texts().values()))
    errors = type_errors(version, {path: text})
    assert any(path.name in line and "[attr-defined]" in line for line in errors), errors
    name = mistaken.strip(".(").rpartition(".")[2]
    assert any(name in line for line in wrong_names(text, names(version), own))


def test_a_tensorrt_object_that_is_typed_as_any_is_found(tmp_path):
    text = HEAD.replace("engine: tensorrt.ICudaEngine", "engine: Any")
    text += "    engine.num_io_tensors\n    context.infer_shapes()\n"
    file = tmp_path / "planted.py"
    file.write_text(text)
    (found,) = untyped_uses(NEWEST, {file: text}, frozenset())
    assert found == "planted.py:22: engine.num_io_tensors"


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_added_to_the_stubs_is_about_what_the_version_has(version):
    added = [*MAY_BE_NONE, *PROTOCOLS, *SIGNATURES]
    assert [name for name in added if not names(version).has(name)] == []


def test_what_mypy_reads_is_line_for_line_what_is_written():
    text = HEAD + "    if version.has_dla and (\n        version.has_tiling\n    ):\n        pass\n"
    settled = typed(text, names(FLOOR)).splitlines()
    written = text.splitlines()
    assert len(settled) == len(written)
    changed = [(old, new) for old, new in zip(written, settled, strict=True) if old != new]
    assert changed == [
        ("from __future__ import annotations", f"{written[1]}; import tensorrt as trt"),
        ("    trt = import_tensorrt()", "    _ = import_tensorrt()"),
        ("    if version.has_dla and (", "    if True and ("),
        ("        version.has_tiling", "        False"),
    ]


def test_the_module_may_be_handed_on():
    text = "from __future__ import annotations\ndef f(trt: Any): return f(trt=trt.Builder)\n"
    assert (
        typed(text, names(FLOOR)).splitlines()[1] == "def f(_trt: Any): return f(_trt=trt.Builder)"
    )
