"""Every name of TensorRT's that the package uses exists, in each version in which it is used."""

from __future__ import annotations

import ast

import pytest

from tests.tensorrt_bindings import ROOT, VERSIONS
from tests.tensorrt_names import hard_coded_flags, names, own_attributes, sources, wrong_names

pytestmark = pytest.mark.bindings

FLOOR, NEWEST = VERSIONS[0], VERSIONS[-1]
OWN = own_attributes(ast.parse(path.read_text()) for path in sources())

HEAD = """
from __future__ import annotations
def planted(engine, config, builder, network, version):
    trt = import_tensorrt()
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_that_is_used_exists(version):
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in sources()
        if (found := wrong_names(path.read_text(), names(version), OWN))
    }
    assert not wrong


def test_no_number_stands_for_an_enum():
    found = {path.name: hard_coded_flags(path.read_text()) for path in sources()}
    assert not any(found.values()), found


def wrong(*lines: str, version: str = NEWEST) -> list[str]:
    return wrong_names(HEAD + "".join(f"    {line}\n" for line in lines), names(version), OWN)


NEVER, SINCE_11, BEFORE_10_4 = VERSIONS, VERSIONS[4:], VERSIONS[:1]

# A wrong name, and the versions in which it is wrong.
PLANTED = {
    "config.set_flag(trt.BuilderFlag.FP16)": SINCE_11,
    "config.set_flag(trt.BuilderFlag.FP32)": NEVER,
    "return 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)": SINCE_11,
    "return engine.device_memory_size": SINCE_11,
    "return builder.platform_has_fast_fp16": SINCE_11,
    "config.max_workspace_size = 1 << 30": NEVER,
    "engine.get_binding_shape(0)": NEVER,
    "config.max_num_tactics = 3": BEFORE_10_4,
    "config.tiling_optimization_level = trt.TilingOptimizationLevel.FAST": VERSIONS[:2],
    "return trt.TensorIOMode.INPUTS": NEVER,
    "return trt.get_plugin_registries()": NEVER,
    "class Calibrator(trt.IInt8EntropyCalibrator2): pass": SINCE_11,
    "value: tensorrt.IInt8Calibrator": SINCE_11,
}


@pytest.mark.parametrize("line", PLANTED)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_planted_wrong_name_is_found_in_the_versions_that_lack_it(line, version):
    found = wrong(line, version=version)
    assert bool(found) == (version in PLANTED[line])
    assert all(text.startswith("5: ") and text.endswith(version) for text in found)


GUARDED = [
    ["if version.has_weak_typing:", "    config.set_flag(trt.BuilderFlag.FP16)"],
    ["if not version.has_weak_typing:", "    raise ValueError", "trt.BuilderFlag.FP16"],
    ["if version.has_weak_typing and network:", "    return trt.BuilderFlag.FP16"],
    ["flag = trt.BuilderFlag.FP16 if version.has_weak_typing else None"],
    ["flag = version.has_weak_typing and trt.BuilderFlag.FP16"],
    ["if hasattr(engine, 'device_memory_size'):", "    return engine.device_memory_size"],
    ["if hasattr(trt, 'IInt8Calibrator'):", "    return trt.IInt8Calibrator"],
    ["if version.has_max_num_tactics:", "    config.max_num_tactics = 3"],
    ["if network or not version.has_weak_typing:", "    return", "trt.BuilderFlag.FP16"],
    ["if not (version.has_weak_typing and network):", "    return", "trt.BuilderFlag.FP16"],
    ["flag = getattr(trt.BuilderFlag, 'FP16')"],
    ["flag = getattr(trt.BuilderFlag, 'FP16', None)"],
    ["setattr(config, 'max_num_tactics', 3)"],
    [
        "if version.has_weak_typing or (",
        "    version.has_tiling",
        "):",
        "    pass",
        "if (",
        "    hasattr(",
        "        engine,",
        "        'device_memory_size',",
        "    )",
        "):",
        "    return engine.device_memory_size",
    ],
]


@pytest.mark.parametrize("lines", GUARDED, ids=lambda lines: lines[0])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_guarded_name_is_no_false_alarm(lines, version):
    assert wrong(*lines, version=version) == []


WRONG_GUARDS = {
    "10.3.0": [["if version.has_dla:", "    config.max_num_tactics = 3"]],
    "10.7.0": [
        ["if version.has_max_num_tactics:", "    config.l2_limit_for_tiling = 1"],
        ["if not version.has_tiling:", "    config.l2_limit_for_tiling = 1"],
        ["if version.has_max_num_tactics or version.has_tiling:", "    config.build_route"],
    ],
    "11.4.0.106": [
        ["if version.has_tiling:", "    config.set_flag(trt.BuilderFlag.FP16)"],
        ["if version.has_weak_typing:", "    return 1", "return trt.BuilderFlag.FP16"],
        ["if version.has_weak_typing:", "    pass", "else:", "    return trt.BuilderFlag.FP16"],
        ["return version.has_weak_typing or trt.BuilderFlag.FP16"],
        ["if engine.device_memory_size or not version.has_weak_typing:", "    return"],
        ["if hasattr(trt.BuilderFlag, 'TF32'):", "    return trt.BuilderFlag.FP16"],
    ],
}


@pytest.mark.parametrize(
    ("version", "lines"), [(key, lines) for key, cases in WRONG_GUARDS.items() for lines in cases]
)
def test_a_guard_that_asks_for_something_else_does_not_hide_the_name(version, lines):
    assert len(wrong(*lines, version=version)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "getattr(trt.BuilderFlag, 'FP61')",
        "getattr(config, 'max_num_tactic', None)",
        "setattr(config, 'max_workspace_size', 1)",
        "hasattr(engine, 'device_memory_size_v3')",
        "hasattr(trt, 'IInt8Calibrators')",
    ],
)
def test_a_name_in_a_string_must_exist_in_some_version(line):
    (found,) = wrong(line, version=FLOOR)
    assert found.endswith("is in no version of TensorRT")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("builder.create_network(1)", 1),
        ("builder.create_network(1 << 1)", 1),
        ("builder.create_network(flags=3)", 1),
        ("config.set_tactic_sources(7)", 1),
        ("config.flags = 1 << 2 | 4", 1),
        ("config.flags |= 4", 1),
        ("builder.create_network(0)", 0),
        ("builder.create_network()", 0),
        ("builder.create_network(1 << int(trt.BuilderFlag.TF32))", 0),
    ],
)
def test_numbers_in_place_of_flags_are_found(line, found):
    assert len(hard_coded_flags(HEAD + f"    {line}\n")) == found
