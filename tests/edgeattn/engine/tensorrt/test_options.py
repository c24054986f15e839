"""Options of a build: each thing that is out of range, contradicts or is not in a version."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from edgeattn.engine.tensorrt.options import (
    POOLS,
    ImplicitInt8,
    ShapeProfile,
    TensorRtOptions,
    all_tactic_sources,
)
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import BuildError

ALL = [
    TensorRtVersion.parse(text)
    for text in ("10.3.0.30", "10.7", "10.13.3.9", "10.16.1.11", "11.0", "11.4.1.5")
]
NEWEST_10 = TensorRtVersion.parse("10.16.1.11")
PROFILE = ShapeProfile(opt={"x": (1, 3)})


@pytest.mark.parametrize("version", ALL, ids=str)
def test_the_defaults_are_good_for_every_version(version):
    TensorRtOptions().check(version)


@pytest.mark.parametrize("text", ["8.6.2", "10.2", "12.0"])
def test_versions_that_nobody_has_tried_are_refused(text):
    with pytest.raises(BuildError, match=f"TensorRT {re.escape(text)} is not supported"):
        TensorRtOptions().check(TensorRtVersion.parse(text))


LACKING = [
    ({"max_tactics": 8}, "10.3", "10.4", "cannot limit the tactics", "--max-tactics"),
    ({"tiling": "full"}, "10.7", "10.8", "has no tiling optimization", "--tiling"),
    (
        {"hardware_compatibility": "same_compute_capability"},
        *("10.8", "10.9", "has no hardware compatibility for GPUs of the same", "ampere+"),
    ),
    ({"dla_core": 0}, "10.8", "10.7", "has no DLA", "--dla-core"),
    ({"dla_core": 0}, "11.4", "11.4.1", "has no DLA", "--dla-core"),
    (
        {"implicit_int8": ImplicitInt8("images/")},
        *("11.0", "10.16", "has no INT8 calibrators", "edgeattn quantize"),
    ),
    (
        {"tactic_sources": ("CUBLAS",)},
        *("11.0", "10.16", "has no tactic source CUBLAS", "EDGE_MASK_CONVOLUTIONS"),
    ),
]


@pytest.mark.parametrize(("asked", "lacks", "has", "said", "hint"), LACKING)
def test_a_version_that_lacks_an_option_is_named(asked, lacks, has, said, hint):
    options = TensorRtOptions(**asked)
    options.check(TensorRtVersion.parse(has))
    with pytest.raises(BuildError, match=f"TensorRT {re.escape(lacks)} {said}") as error:
        options.check(TensorRtVersion.parse(lacks))
    assert hint in error.value.hint


WRONG = [
    ({"workspace_mib": 0}, "workspace_mib is 0; expected a whole number of at least 1"),
    ({"workspace_mib": 1.5}, "workspace_mib is 1.5"),
    ({"optimization_level": 6}, "optimization_level is 6; expected 0 to 5"),
    ({"optimization_level": -1}, "optimization_level is -1; expected 0 to 5"),
    ({"optimization_level": True}, "optimization_level is True"),
    ({"max_tactics": 0}, "max_tactics is 0"),
    ({"avg_timing": 0}, "avg_timing is 0"),
    ({"max_aux_streams": -1}, "max_aux_streams is -1"),
    ({"dla_core": -1}, "dla_core is -1"),
    ({"device": -1}, "device is -1"),
    ({"pools": {"sram": 1}}, "there is no memory pool sram"),
    ({"pools": {"tactic_dram": 0}}, "tactic_dram is 0 MiB; expected more than 0"),
    ({"pools": {"tactic_dram": float("nan")}}, "tactic_dram is nan MiB"),
    ({"pools": {"tactic_shared_memory": 1024}}, "expected less than 1024"),
    ({"pools": {"dla_local_dram": 3}, "dla_core": 0}, "wants a power of two of at least 4 KiB"),
    ({"pools": {"dla_managed_sram": 1 / 512}, "dla_core": 0}, "at least 4 KiB"),
    ({"hardware_compatibility": "hopper+"}, "hardware_compatibility is 'hopper+'"),
    ({"profiling_verbosity": "verbose"}, "profiling_verbosity is 'verbose'"),
    ({"tiling": "much"}, "tiling is 'much'"),
    ({"tactic_sources": ("CUBLASLT",)}, "there is no tactic source CUBLASLT"),
    ({"no_timing_cache": True, "timing_cache": Path("c")}, "a timing cache was given, and none"),
    ({"exclude_lean_runtime": True}, "only a version-compatible engine has a lean runtime"),
    ({"embed_plugin": True}, "only a version-compatible engine carries a plugin library"),
    ({"refit": True, "profiles": (PROFILE, PROFILE)}, "one optimization profile; 2 were given"),
    ({"strip_weights": True, "profiles": (PROFILE, PROFILE)}, "one optimization profile"),
    ({"allow_gpu_fallback": True}, "a fallback to the GPU was asked for without a DLA core"),
    ({"pools": {"dla_global_dram": 512}}, "the memory pool dla_global_dram needs a DLA core"),
]


@pytest.mark.parametrize(("asked", "said"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_out_of_range_or_contradicts_itself_is_named(asked, said):
    with pytest.raises(BuildError, match=re.escape(said)) as error:
        TensorRtOptions(**asked).check(TensorRtVersion.parse("10.7"))
    assert error.value.hint


def test_a_misspelt_pool_finds_its_name():
    with pytest.raises(BuildError) as error:
        TensorRtOptions(pools={"tactc_dram": 1}).check(NEWEST_10)
    assert error.value.hint == "did you mean tactic_dram?"


def test_the_largest_values_are_good():
    TensorRtOptions(
        optimization_level=5,
        max_aux_streams=0,
        pools={"tactic_shared_memory": 1023.9, "dla_managed_sram": 1, "dla_local_dram": 1 / 256},
        dla_core=1,
        allow_gpu_fallback=True,
        refit=True,
        profiles=(PROFILE,),
    ).check(TensorRtVersion.parse("10.7"))


def test_types_are_the_graphs_unless_tensorrt_10_has_to_choose_them():
    int8 = TensorRtOptions(implicit_int8=ImplicitInt8("images/"))
    dla = TensorRtOptions(dla_core=0)
    assert TensorRtOptions().is_strongly_typed(NEWEST_10)
    assert not int8.is_strongly_typed(NEWEST_10)
    assert not dla.is_strongly_typed(TensorRtVersion(10, 3))
    assert dla.is_strongly_typed(TensorRtVersion(11, 4, 1))


def test_all_options_become_json_under_their_names():
    options = TensorRtOptions(
        profiles=(ShapeProfile(min={"x": (1, 3)}, opt={"x": (2, 3)}),),
        pools={"tactic_dram": 100},
        timing_cache=Path("a.timing"),
        plugin=Path("p.so"),
        tactic_sources=("JIT_CONVOLUTIONS",),
        implicit_int8=ImplicitInt8(Path("images"), cache=Path("c.cache")),
    )
    values = json.loads(json.dumps(options.to_dict(), allow_nan=False))
    assert values.keys() == {field.name for field in dataclasses.fields(TensorRtOptions)}
    assert values["profiles"] == [{"min": {"x": [1, 3]}, "opt": {"x": [2, 3]}, "max": {}}]
    assert values["timing_cache"] == "a.timing"
    assert values["plugin"] == "p.so"
    assert values["tactic_sources"] == ["JIT_CONVOLUTIONS"]
    assert values["implicit_int8"]["data"] == "images"
    assert values["implicit_int8"]["cache"] == "c.cache"
    arrays = TensorRtOptions(implicit_int8=ImplicitInt8(np.zeros((4, 3), np.float32)))
    assert "ndarray" in json.loads(json.dumps(arrays.to_dict()))["implicit_int8"]["data"]


def test_tactic_sources_lost_the_libraries_in_11():
    assert "CUDNN" in all_tactic_sources(NEWEST_10)
    assert all_tactic_sources(TensorRtVersion(11, 0)) == (
        *("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS"),
    )


def test_every_pool_but_one_has_a_word_in_trtexec():
    assert [name for name, word in POOLS.items() if not word] == ["tactic_dram"]
