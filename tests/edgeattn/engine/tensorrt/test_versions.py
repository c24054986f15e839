"""Versions of TensorRT: reading them, ordering them, and what the real bindings say of each."""

from __future__ import annotations

import json
import sys

import pytest

from edgeattn.engine.tensorrt.versions import TensorRtVersion, installed_version
from edgeattn.errors import BuildError, MissingDependencyError, SpecError
from edgeattn.targets import TARGETS
from tests.tensorrt_bindings import VERSIONS, bindings

# A capability and the name that has it, looked up in the bindings.
NAMES = {
    "has_weak_typing": "BuilderFlag.FP16",
    "has_calibrators": "IInt8EntropyCalibrator2",
    "has_explicit_batch_flag": "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    "has_max_num_tactics": "IBuilderConfig.max_num_tactics",
    "has_tiling": "IBuilderConfig.tiling_optimization_level",
    "has_editable_timing_cache": "ITimingCache.query",
    "has_same_compute_capability": "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY",
    "has_attention_operator": "INetworkDefinition.add_attention",
    "has_plugin_override": "OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE",
    "embeds_plugins": "IBuilderConfig.plugins_to_serialize",
}

LOOK_UP = """
import functools, json, sys, tensorrt
names = json.loads(sys.argv[1])
def has(name):
    try:
        functools.reduce(getattr, name.split("."), tensorrt)
    except AttributeError:
        return False
    return True
print(json.dumps({"version": tensorrt.__version__, **{key: has(n) for key, n in names.items()}}))
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_capabilities_are_those_of_the_real_bindings(version: str) -> None:
    found = json.loads(bindings(version).run("-c", LOOK_UP, json.dumps(NAMES)))
    parsed = TensorRtVersion.parse(found.pop("version"))
    assert found == {key: getattr(parsed, key) for key in NAMES}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("10.3", (10, 3, 0, 0)),
        ("10.3.0.30", (10, 3, 0, 30)),
        (" 11.4.0.106\n", (11, 4, 0, 106)),
        ("10.16.2", (10, 16, 2, 0)),
        ("10.3.0.30+cuda12.5", (10, 3, 0, 30)),
    ],
)
def test_versions_are_read(text: str, numbers: tuple[int, ...]) -> None:
    assert TensorRtVersion.parse(text) == TensorRtVersion(*numbers)


@pytest.mark.parametrize("text", ["", "10", "ten", "10.x", "10.3.", "10.3.0.30.1", "-10.3"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="is no version of TensorRT") as caught:
        TensorRtVersion.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["10.3", "10.3.0.30", "10.13.3.9", "11.4.0.106", "11.0"])
def test_a_version_is_written_as_it_is_read(text: str) -> None:
    assert str(TensorRtVersion.parse(text)) == text


def test_versions_are_ordered_by_number_and_not_by_text() -> None:
    texts = ["11.4.1", "10.13.3.9", "10.3.0.30", "11.4.0.106", "10.16", "10.3", "10.7", "11.0"]
    versions = sorted(TensorRtVersion.parse(text) for text in texts)
    assert " ".join(map(str, versions)) == (
        "10.3 10.3.0.30 10.7 10.13.3.9 10.16 11.0 11.4.0.106 11.4.1"
    )


@pytest.mark.parametrize(
    ("text", "has_dla"),
    [
        ("10.3.0.30", True),
        ("10.7.0.23", True),
        ("10.8", False),
        ("10.16.2.10", False),
        ("11.0", False),
        ("11.4.0.106", False),
        ("11.4.1", True),
        ("11.5", True),
    ],
)
def test_dla_ended_with_10_7_and_came_back(text: str, has_dla: bool) -> None:
    assert TensorRtVersion.parse(text).has_dla is has_dla


@pytest.mark.parametrize("text", ["8.6.2.3", "10.0.1", "10.2", "12.0"])
def test_unsupported_versions_are_refused(text: str) -> None:
    with pytest.raises(BuildError, match=r"not supported; expected 10\.3 to 11\.x"):
        TensorRtVersion.parse(text).require_supported()


def test_every_jetpack_has_a_supported_version() -> None:
    for target in TARGETS.values():
        for jetpack in target.jetpacks:
            TensorRtVersion.parse(jetpack.tensorrt).require_supported()


def test_the_installed_version_is_that_of_the_package() -> None:
    script = "from edgeattn.engine.tensorrt.versions import installed_version as v; print(v())"
    assert bindings("10.3.0").run("-c", script).strip() == "10.3"


def test_no_package_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match="needs TensorRT"):
        installed_version()
