"""How a board is told to build: every option comes back as it was, no machine's file goes along."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from edgeattn.bundle.recipe import BundledLibrary, Recipe
from edgeattn.engine.tensorrt.options import ImplicitInt8, ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.errors import ArtifactError, BuildError, TargetError

# A value for each option of the builder that is not its default.
OPTIONS: dict[str, Any] = {
    "profiles": (
        ShapeProfile(min={"x": (1, 3)}, opt={"x": (4, 3)}, max={"x": (8, 3)}),
        ShapeProfile(opt={"x": (16, 3)}),
    ),
    "workspace_mib": 512,
    "pools": {"tactic_dram": 64.0, "tactic_shared_memory": 0.25},
    "no_timing_cache": True,
    "optimization_level": 5,
    "max_tactics": 3,
    "avg_timing": 8,
    "tactic_sources": ("JIT_CONVOLUTIONS",),
    "tiling": "fast",
    "hardware_compatibility": "ampere+",
    "version_compatible": True,
    "exclude_lean_runtime": True,
    "refit": True,
    "dla_core": 1,
    "allow_gpu_fallback": True,
    "tf32": False,
    "max_aux_streams": 0,
    "profiling_verbosity": "none",
    "embed_plugin": True,
    "sparsity": True,
}
OF_ONE_MACHINE: dict[str, Any] = {
    "timing_cache": Path("timings"),
    "plugin": Path("lib.so"),
    "implicit_int8": ImplicitInt8("images"),
    "device": 1,
}
REQUEST: dict[str, Any] = {
    "attention": "native",
    "autotune_attention": True,
    "require_precision": "int8+fp16",
}
OF_ONE_PLAN: dict[str, Any] = {
    "target": "jetson-thor",
    "jetpack": "7.2",
    "tensorrt_version": "10.3",
    "lowered_graph": Path("lowered.onnx"),
}


def test_every_option_is_carried_or_refused() -> None:
    carried = OPTIONS.keys() | OF_ONE_MACHINE.keys() | {"strip_weights"}
    assert {spec.name for spec in fields(TensorRtOptions)} == carried
    names = {spec.name for spec in fields(TensorRtRequest)} - {"options"}
    assert names == REQUEST.keys() | OF_ONE_PLAN.keys()


def there_and_back(recipe: Recipe) -> Recipe:
    return Recipe.from_dict(json.loads(json.dumps(recipe.to_dict(), allow_nan=False)), "b.zip")


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_comes_back_as_it_was(name: str) -> None:
    recipe = Recipe(tensorrt=TensorRtRequest(TensorRtOptions(**{name: OPTIONS[name]})))
    assert recipe.to_dict()["tensorrt"]["options"].keys() == {name}
    assert there_and_back(recipe) == recipe


def test_everything_together_comes_back_as_it_was() -> None:
    library = BundledLibrary("plugin/a/lib.so", "aarch64", (87, 110), 10)
    request = TensorRtRequest(TensorRtOptions(**OPTIONS), **REQUEST)
    recipe = Recipe("tensorrt", ("jetson-thor", "desktop"), request, (library,))
    assert there_and_back(recipe) == recipe


def test_what_is_a_default_is_not_written() -> None:
    assert Recipe().to_dict() == {
        "engine": "auto",
        "targets": [],
        "tensorrt": {"options": {}},
        "libraries": [],
    }
    assert there_and_back(Recipe()) == Recipe()


@pytest.mark.parametrize("name", [*OF_ONE_MACHINE, *OF_ONE_PLAN])
def test_what_belongs_to_one_machine_is_refused(name: str) -> None:
    if name in OF_ONE_MACHINE:
        request = TensorRtRequest(TensorRtOptions(**{name: OF_ONE_MACHINE[name]}))
    else:
        request = TensorRtRequest(**{name: OF_ONE_PLAN[name]})
    with pytest.raises(BuildError, match=f"{name} was given, which belongs to one machine"):
        Recipe(tensorrt=request)


def test_an_engine_that_cannot_be_verified_is_refused() -> None:
    with pytest.raises(BuildError, match="an engine without weights has no outputs to verify"):
        Recipe(tensorrt=TensorRtRequest(TensorRtOptions(strip_weights=True)))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(BuildError, match="there is no engine 'gpu'"):
        Recipe("gpu")
    with pytest.raises(TargetError, match="there is no target 'jetson'"):
        Recipe(targets=("jetson",))


@pytest.mark.parametrize(
    ("attention", "autotune", "uses"),
    [("plugin", False, True), ("native", False, False), ("native", True, True)],
)
def test_the_plugin_is_used_where_it_computes_or_may(
    attention: Any, autotune: bool, uses: bool
) -> None:
    request = TensorRtRequest(attention=attention, autotune_attention=autotune)
    assert Recipe(tensorrt=request).uses_plugin is uses


def told(**options: Any) -> dict[str, Any]:
    return {"engine": "cpu", "targets": [], "tensorrt": {"options": options}, "libraries": []}


MALFORMED: dict[str, Any] = {
    "empty": {},
    "an unknown engine": told() | {"engine": "gpu"},
    "an unknown target": told() | {"targets": ["toaster"]},
    "an unknown option": told(speed=11),
    "an unknown request": told() | {"tensorrt": {"options": {}, "speed": 11}},
    "a flag in words": told(tf32="yes"),
    "a number in place of a flag": told(refit=1),
    "a flag in place of a number": told(workspace_mib=True),
    "a fractional size": told(profiles=[{"opt": {"x": [1.5]}}]),
    "a profile that is none": told(profiles=[1]),
    "options that are none": told() | {"tensorrt": {"options": 3}},
    "an unknown way of attention": told() | {"tensorrt": {"options": {}, "attention": "magic"}},
    "a file of one machine": told(plugin="/tmp/evil.so"),
    "a library that is none": told() | {"libraries": [{"name": "lib.so"}]},
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_this_version_cannot_follow_is_refused(case: str) -> None:
    with pytest.raises(ArtifactError, match=r"b\.zip says how to build its engine in a way") as e:
        Recipe.from_dict(MALFORMED[case], "b.zip")
    assert "\n" not in e.value.message
