"""TensorRT's failures: each row of the table by a recorded message, and which of several counts."""

from __future__ import annotations

import re
import string
import sys
import time

import click
import pytest

from edgeattn.cli.main import cli
from edgeattn.engine.tensorrt.failure_table import FAILURES, KINDS
from edgeattn.engine.tensorrt.failures import (
    build_error,
    engine_error,
    explain,
    explain_exception,
)
from edgeattn.engine.tensorrt.imports import import_tensorrt
from edgeattn.engine.tensorrt.log import CapturedLog, LogLine
from edgeattn.errors import BuildError, EngineError, MissingDependencyError
from tests.tensorrt_logs import LOGS, recorded, replay

ROWS = {row.key: row for row in FAILURES}

# The sentence that each recorded log gives, written out by hand.
SENTENCES = {
    "cuda_driver_old": "the driver is older than the CUDA that this TensorRT was built for",
    "cuda_driver_mismatch": "the libcuda that was loaded does not belong to the driver",
    "cuda_unavailable": "CUDA cannot be initialized",
    "gpu_unsupported": "this TensorRT does not know the GPU's architecture, SM 120",
    "dla_compiler_missing": "the board lacks libnvdla_compiler.so, which TensorRT links even where",
    "library_missing": "TensorRT cannot load libnvinfer_builder_resource.so.10.7.0, a part of",
    "lean_runtime_only": "TensorRT's lean or dispatch runtime was loaded instead of the whole",
    "engine_of_another_version": "the engine was built by another version of TensorRT than the one",
    "engine_of_another_gpu": "the engine was built for compute capability 8.6, and this GPU has",
    "engine_of_another_platform": "the engine was built on another platform",
    "not_an_engine": "the file is no engine of this TensorRT",
    "plugin_missing": "TensorRT knows neither an operator nor a plugin called DummyOp",
    "plugin_not_found": "a plugin that the graph or the engine uses is not loaded",
    "plugin_registered_twice": "the engine carries the plugin EfficientRotatedNMS_TRT, which is",
    "plugin_library_unfit": "the library has no function getCreators, by which TensorRT asks",
    "plugin_formats": "the plugin of /TRTBatchedNMS accepts no combination of the types",
    "plugin_not_int8": "a plugin was given INT8 tensors that it has no kernel for",
    "plugin_failed": "a plugin reported that it could not run",
    "types_differ": "an operator gets inputs of the types Half and Float, which a strongly",
    "type_unsupported": "an operator gets a type that TensorRT does not take there",
    "zero_point": "the graph is quantized with zero points, and TensorRT takes symmetric",
    "scale_not_positive": "a quantization scale of the graph is zero, negative or NaN",
    "int8_without_scales": "the graph has INT8 tensors and no Q/DQ nodes that give their scales",
    "precision_needs_other_gpu": "the GPU has no FP8 arithmetic",
    "topk_limit": "TensorRT selects at most 3840 elements in a TopK",
    "weights_file": "the weights of the graph lie in stdit3_simplified.onnx.data, which cannot be",
    "no_profile": "the graph has free dimensions and the build was given no range of shapes",
    "profile_incomplete": "the range of shapes leaves out an input",
    "profile_contradicts_graph": "the range of shapes does not fit the graph",
    "shape_outside_profile": "an input has a shape outside the range that the engine was built for",
    "shape_not_static": "the input input_0 has a fixed shape in this engine and was given another",
    "graph_shapes": "the shapes of two tensors of the graph do not go together",
    "pool_size": "a memory pool has a size that TensorRT refuses",
    "dla_layer": "DLA cannot run the layer 644 and may not leave it to the GPU",
    "dla_absent": "this board has no DLA core 0",
    "dla_standalone": "the file holds a program for DLA alone, which TensorRT builds and does not",
    "dla_failed": "DLA failed: Failure to submit program to DLA engine.",
    "memory_tactic": "memory is short: a kernel wanted 1583MB where 1547MB were free",
    "memory_request": "memory is short: 14,768 MiB in one piece could not be allocated",
    "memory_out": "memory ran out",
    "memory_nvmap": "the board's memory is short or in pieces: its driver (NvMap) could not",
    "workspace_small": "kernels were skipped because they need more workspace than they may have",
    "fuser_types": "TensorRT's fuser found types that do not go together (291: dequantize)",
    "illegal_access": "a kernel failed, mostly by reading or writing outside its memory",
    "no_kernel_image": "a plugin library holds no machine code for this GPU",
    "other_context": "the engine, its stream and its memory belong to different CUDA contexts",
    "address_missing": "the tensor input was given no memory or no shape before the engine ran",
    "no_implementation": "TensorRT found no kernel for {ForeignNode[3001...Add_1839]}",
    "importer_missing": "TensorRT's parser has no operator and no plugin called DCNv2_TRT",
    "network_invalid": "TensorRT refuses the network as a whole",
    "engine_unreadable": "TensorRT could not read the engine",
    "timing_cache": "the timing cache is of another TensorRT or GPU and was not used",
    "other_device_model": "the engine was built on another model of GPU",
    "int64_clamped": "the graph holds INT64 constants that do not fit INT32",
}
# What a user can type or press, of which each hint has something.
ACTIONABLE = re.compile(
    r"--[a-z]+|`[^`]+`|sudo |nvidia-smi|ldconfig|edgeattn |LD_LIBRARY_PATH|Cast|\bthe file\b"
    r"|in the graph|the constant|give |start the process|do not import|export"
)


def test_every_row_has_a_sentence_and_a_recorded_log_and_none_is_left_over():
    assert SENTENCES.keys() == ROWS.keys()
    assert len(ROWS) == len(FAILURES)
    assert {path.stem for path in LOGS.glob("*.log")} == ROWS.keys()


@pytest.mark.parametrize("key", SENTENCES)
def test_a_recorded_log_gives_its_sentence_and_hint(key):
    error = build_error("TensorRT built no engine", replay(key))
    assert isinstance(error, BuildError)
    assert error.message.startswith(f"TensorRT built no engine: {SENTENCES[key]}"), error.message
    assert error.hint == ROWS[key].hint
    assert ACTIONABLE.search(error.hint), error.hint


@pytest.mark.parametrize("key", SENTENCES)
def test_each_wording_of_a_row_was_recorded(key):
    lines = recorded(key)
    for pattern in ROWS[key].patterns:
        assert any(re.search(pattern, line.text) for line in lines), pattern


@pytest.mark.parametrize("key", SENTENCES)
def test_a_planted_line_is_found_between_others(key):
    lines = [
        LogLine(0.0, "info", "Detected 1 inputs and 1 output network tensors."),
        next(line for line in recorded(key) if re.search(ROWS[key].patterns[-1], line.text)),
        LogLine(9.0, "error", "Something that nobody has seen."),
    ]
    assert key in [explanation.row for explanation in explain(lines)]


@pytest.mark.parametrize("key", SENTENCES)
def test_a_row_is_well_formed(key):
    row = ROWS[key]
    wanted = {name for _, name, _, _ in string.Formatter().parse(row.cause) if name}
    for pattern in row.patterns:
        assert wanted == re.compile(pattern).groupindex.keys(), pattern
    assert row.kind in KINDS
    for text in (row.cause, row.hint, row.source):
        assert text == text.strip()
        assert not text.endswith(".")
        assert "  " not in text
    header = (LOGS / f"{key}.log").read_text("utf-8").splitlines()[0]
    assert header.startswith(("# source: ", "# composed: "))


# Docker's and trtexec's.
FOREIGN = {"--runtime", "--buildDLAStandalone"}


def options_by_verb() -> dict[str, set[str]]:
    """Collect the options of each verb of the command line, `plugin build` and such too."""
    found = {}
    groups: list[tuple[str, click.Group]] = [("", cli)]
    while groups:
        prefix, group = groups.pop()
        for name in group.list_commands(click.Context(group)):
            command = group.get_command(click.Context(group), name)
            found[f"{prefix}{name}"] = {
                word for option in command.params for word in (*option.opts, *option.secondary_opts)
            }
            if isinstance(command, click.Group):
                groups.append((f"{prefix}{name} ", command))
    return found


def test_hints_name_verbs_and_options_that_exist():
    verbs = options_by_verb()
    for row in FAILURES:
        for command in re.findall(r"`edgeattn ([^`]+)`", row.hint):
            (verb,) = [v for v in verbs if re.match(rf"{v}\b", command) and v != "plugin"]
            assert set(re.findall(r"--[\w-]+", command)) <= verbs[verb], command
        rest = re.sub(r"`[^`]+`", "", row.hint)
        assert "edgeattn" not in rest.replace("edgeattn's", ""), row.key
        options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", rest)) - FOREIGN
        known = {"build", "export", "plugin build", "quantize"}
        assert options <= set().union(*(verbs[verb] for verb in known)), row.key


@pytest.mark.parametrize("name", [path.stem for path in sorted((LOGS / "good").glob("*.log"))])
def test_no_row_matches_the_log_of_a_good_build(name):
    assert explain(recorded(f"good/{name}")) == []
    assert len(recorded(f"good/{name}")) > 10


# Which of several counts


def first(*texts: str) -> str:
    return explain([LogLine(float(i), "error", text) for i, text in enumerate(texts)])[0].row


NO_IMPLEMENTATION = (
    "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any "
    "implementation for node {ForeignNode[a...b]}. In computeCosts at /_src/optimizer.cpp:4115)"
)
SKIPPED = "Skipping tactic 0 due to insufficient memory on requested size of 29147520 detected"
SHORT = "Tactic Device request: 4229MB Available: 2658MB. Device memory is insufficient to use it."
ALLOCATOR = "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"
REQUEST = "Requested amount of GPU memory (15485030400 bytes) could not be allocated."
FORMATS = "/attn: could not find any supported formats consistent with input/output data types"
PLUGIN = "IPluginRegistry::getCreator: Error Code 4: (Cannot find plugin: Op, version: 1)"
NO_CREATOR = "Serialization assertion creator failed. IPluginCreator not found in Plugin Registry"
UNREADABLE = "Error Code 4: Internal Error (Engine deserialization failed.)"
INVALID = "Network must have at least one output"
DRIVER = "CUDA initialization failure with error: 35. Please check your CUDA installation"
CLAMPED = "One or more weights outside the range of INT32 was clamped"
DEQUANTIZE = "Skipping tactic 0x0 Could not infer output types for operation: 7: dequantize: x"


@pytest.mark.parametrize(
    ("lines", "row"),
    [
        ((SHORT, SKIPPED, NO_IMPLEMENTATION), "memory_tactic"),
        ((NO_IMPLEMENTATION, SHORT), "memory_tactic"),  # threads: the order may be another
        ((ALLOCATOR, REQUEST, NO_IMPLEMENTATION), "memory_request"),  # with figures
        ((ALLOCATOR, NO_IMPLEMENTATION), "memory_out"),
        ((SKIPPED, NO_IMPLEMENTATION), "workspace_small"),
        ((SKIPPED, REQUEST), "memory_request"),
        ((DEQUANTIZE, ALLOCATOR, NO_IMPLEMENTATION), "memory_out"),
        ((DEQUANTIZE, NO_IMPLEMENTATION), "fuser_types"),
        ((SHORT, FORMATS), "plugin_formats"),  # certain, where a skipped kernel may be harmless
        ((CLAMPED, FORMATS), "plugin_formats"),
        ((CLAMPED, NO_IMPLEMENTATION), "no_implementation"),
        ((NO_CREATOR, PLUGIN, UNREADABLE), "plugin_missing"),
        ((NO_CREATOR, UNREADABLE), "plugin_not_found"),
        ((PLUGIN, INVALID), "plugin_missing"),
        ((PLUGIN, FORMATS), "plugin_missing"),
        ((FORMATS, PLUGIN), "plugin_formats"),
        ((SHORT, DRIVER), "cuda_driver_old"),
    ],
)
def test_the_root_cause_comes_first(lines, row):
    assert first(*lines) == row


def test_every_cause_is_reported_once_with_its_first_line():
    lines = [LogLine(float(i), "warning", text) for i, text in enumerate([SHORT, SKIPPED] * 30)]
    found = explain([*lines, LogLine(99.0, "error", NO_IMPLEMENTATION)])
    assert [(e.row, e.line.seconds) for e in found] == [
        ("memory_tactic", 0.0),
        ("workspace_small", 1.0),
        ("no_implementation", 99.0),
    ]
    assert explain([]) == []


@pytest.mark.parametrize("severity", ["info", "verbose"])
def test_what_tensorrt_only_mentions_is_no_cause(severity):
    """With ten thousands of lines in it, a verbose log is explained as fast."""
    lines = [LogLine(float(i), severity, SHORT) for i in range(100_000)]
    began = time.monotonic()
    assert explain(lines) == []
    assert time.monotonic() - began < 5


def test_a_node_is_named_without_what_stands_around_it():
    (found,) = explain([LogLine(0.0, "error", NO_IMPLEMENTATION)])
    assert found.cause == "TensorRT found no kernel for {ForeignNode[a...b]}"


def test_other_numbers_of_a_failed_start_are_told_apart():
    for number, row in ((35, "old"), (803, "mismatch"), (804, "mismatch")):
        text = f"Error Code 6: API Usage Error (CUDA initialization failure with error: {number}. )"
        assert first(text) == f"cuda_driver_{row}"
    for number in (2, 100, 350, 999, 801):
        assert first(f"CUDA initialization failure with error: {number}.") == "cuda_unavailable"


# The errors


def test_an_unknown_error_gives_tensorrts_own_last_error():
    log = CapturedLog()
    log.add("error", "First of its kind.")
    log.add("error", "Error Code 99: Something\n  that nobody has seen.")
    log.add("warning", "a warning")
    log.add("info", "and on it goes")
    error = engine_error("TensorRT refused the engine", log)
    assert isinstance(error, EngineError)
    assert error.message == (
        "TensorRT refused the engine; TensorRT said: Error Code 99: Something that nobody has seen."
    )
    assert "edgeattn doctor" in error.hint


def test_without_an_error_the_last_warning_is_given():
    log = CapturedLog()
    log.add("warning", "one")
    log.add("warning", "two")
    log.add("info", "three")
    assert build_error("TensorRT built no engine", log).message.endswith("TensorRT said: two")


def test_silence_is_said():
    error = build_error("TensorRT built no engine", CapturedLog())
    assert error.message == "TensorRT built no engine, and gives no reason"
    assert "dmesg" in error.hint


def test_lines_from_before_are_left_out():
    log = CapturedLog()
    log.add("error", DRIVER)
    began = log.now()
    assert build_error("TensorRT built no engine", log, since=began).message.endswith("no reason")
    log.add("error", "New.")
    assert build_error("It failed", log, since=began).message == "It failed; TensorRT said: New."
    assert "driver" in build_error("It failed", log).message


def test_a_long_message_loses_its_middle():
    log = CapturedLog()
    log.add("error", "begin " + "x" * 5_000 + " end")
    message = build_error("It failed", log).message
    assert len(message) < 300
    assert message.startswith("It failed; TensorRT said: begin x")
    assert message.endswith("x end")
    assert " … " in message


def test_the_message_quotes_tensorrt_on_one_line():
    error = build_error("TensorRT built no engine", replay("type_unsupported"))
    assert "\n" not in error.message
    assert "(TensorRT: ITensor::getDimensions: Error Code 4" in error.message


# What the bindings raise: failures_contract.py has more


def test_a_builder_that_does_not_start_is_explained_by_the_log():
    null = TypeError("pybind11::init(): factory function returned nullptr")
    error = explain_exception(null, BuildError, replay("cuda_driver_old"))
    assert error.message.startswith("TensorRT does not start: the driver is older than")


@pytest.mark.parametrize("err", [TypeError("x"), AttributeError("x"), ValueError("nullptr")])
def test_what_others_raise_is_not_explained(err):
    assert explain_exception(err, BuildError, CapturedLog()) is None


def test_an_attribute_that_something_else_lacks_is_not_explained():
    with pytest.raises(AttributeError) as raised:
        _ = CapturedLog().no_such_name
    assert explain_exception(raised.value, BuildError, CapturedLog()) is None


# A package that cannot be imported


def test_a_library_that_the_package_lacks_is_explained(tmp_path, monkeypatch):
    (line,) = recorded("dla_compiler_missing")
    (tmp_path / "tensorrt.py").write_text(f"raise ImportError({line.text!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(MissingDependencyError, match=r"libnvdla_compiler\.so") as raised:
        import_tensorrt()
    assert "sudo apt install nvidia-l4t-dla-compiler" in raised.value.hint


def test_a_package_that_is_not_there_is_to_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError) as raised:
        import_tensorrt()
    assert raised.value.hint.startswith("apt install python3-libnvinfer")
