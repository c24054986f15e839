"""Names that options stand for, looked up in NVIDIA's real enums."""

from __future__ import annotations

import tensorrt as trt

from edgeattn.engine.tensorrt.options import POOLS, all_tactic_sources
from edgeattn.engine.tensorrt.versions import installed_version


def test_every_pool_is_one_of_tensorrts():
    names = {name.lower() for name in trt.MemoryPoolType.__members__}
    assert POOLS.keys() | {"workspace"} == names


def test_the_tactic_sources_are_those_of_the_version():
    assert set(all_tactic_sources(installed_version())) == set(trt.TacticSource.__members__)
