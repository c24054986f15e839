"""What a user may rely on: the names of `edgeattn`, the signatures, and a light import."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys

import pytest

import edgeattn
from edgeattn import errors

# Positional parameters, then those that only go by name.
FUNCTIONS = {
    "adapt": ("module", "inplace"),
    "export": ("model spec output", "weights dynamic opset portable simplify progress"),
    "fuse": ("graph output", "global_attention require_all dry_run progress"),
    "calibrate": (
        "graph data output",
        "method percentile samples batch_size seed max_bad random recipe state shard scheduler "
        "shards progress",
    ),
    "merge_calibrations": ("graph states output", "progress"),
    "quantize": (
        "graph output",
        "table precision recipe keep_float balance correct_bias data half_io min_sqnr max_drop "
        "labels samples progress",
    ),
    "sensitivity": ("graph table data labels", "recipe samples output html progress"),
    "build": (
        "graph output",
        "engine table precision fuse global_attention autotune_attention dry_run verify threads "
        "tensorrt progress",
    ),
    "write_bundle": (
        "graph output",
        "table precision portable engine targets tensorrt plugin libraries labels golden_inputs "
        "seed key name progress",
    ),
    "build_from_bundle": ("bundle output", "engine verify public_key progress"),
    "load": ("path", "threads tensorrt rebuild_if_needed bundle public_key"),
    "profile": (
        "engine inputs",
        "iterations duration_s warm_up_ms settle_s mode streams board idle_s layers "
        "sustained_minutes lock_clocks repeat_builds sources output shapes threads tensorrt seed "
        "progress",
    ),
    "compare": (
        "a b inputs labels",
        "fail_if batch_size latency layers any_mode board iterations duration_s warm_up_ms html "
        "shapes threads tensorrt seed progress",
    ),
}
REQUIRED = {
    "adapt": {"module"},
    "export": {"model"},
    "fuse": {"graph"},
    "calibrate": {"graph"},
    "merge_calibrations": {"graph", "states"},
    "quantize": {"graph"},
    "sensitivity": {"graph", "table", "data"},
    "build": {"graph"},
    "write_bundle": {"graph"},
    "build_from_bundle": {"bundle"},
    "load": {"path"},
    "profile": {"engine"},
    "compare": {"a", "b"},
}
CLASSES = {"AttentionSpec", "EdgeAttnError", "HeadGroup", "ImagePreprocess", "InputSpec"}


def test_the_public_names_are_these_and_each_resolves() -> None:
    assert set(edgeattn.__all__) == CLASSES | FUNCTIONS.keys()
    assert list(edgeattn.__all__) == sorted(edgeattn.__all__)
    for name in edgeattn.__all__:
        assert isinstance(getattr(edgeattn, name), type) == (name in CLASSES)
    assert set(edgeattn.__all__) <= set(dir(edgeattn))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgeattn' has no attribute 'quantise'"):
        edgeattn.quantise  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_called_as_documented(name: str) -> None:
    parameters = inspect.signature(getattr(edgeattn, name)).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert (" ".join(positional), " ".join(by_name)) == FUNCTIONS[name]
    assert {p.name for p in parameters if p.default is p.empty} == REQUIRED[name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_and_error_of_a_function_is_described(name: str) -> None:
    function = getattr(edgeattn, name)
    text = inspect.getdoc(function) or ""
    described = re.findall(r"^    (\w+): ", text.partition("Args:")[2], re.MULTILINE)
    parameters = list(inspect.signature(function).parameters)
    assert described[: len(parameters)] == parameters
    raised = re.findall(r"^    (\w+): ", text.partition("Raises:")[2], re.MULTILINE)
    assert raised
    assert all(issubclass(getattr(errors, error), edgeattn.EdgeAttnError) for error in raised)


def test_importing_the_package_imports_no_framework_and_neither_onnx_nor_numpy() -> None:
    code = "import sys, edgeattn; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "edgeattn" in loaded
    assert not loaded & {"torch", "onnx", "onnxruntime", "onnxscript", "numpy", "rich", "PIL"}


def test_the_version_is_that_of_the_installed_package() -> None:
    assert edgeattn.__version__ == importlib.metadata.version("edgeattn")


def test_every_module_says_what_it_is_for() -> None:
    for module in pkgutil.walk_packages(edgeattn.__path__, "edgeattn."):
        if not module.name.endswith("__main__"):
            assert importlib.import_module(module.name).__doc__, module.name
