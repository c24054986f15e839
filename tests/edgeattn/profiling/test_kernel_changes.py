"""Kernels of two builds: what differs is found, and nothing else."""

from __future__ import annotations

from edgeattn.engine.tensorrt.inspector import EngineInfo, EngineLayer
from edgeattn.profiling.kernel_changes import KernelChange, kernel_changes
from tests.tensorrt_printouts import PRINTOUTS, read


def engine(*layers: EngineLayer) -> EngineInfo:
    return EngineInfo("10", layers, (), "detailed")


def conv(name: str, tactic: str = "gemm_64x64") -> EngineLayer:
    return EngineLayer(name, "CaskConvolution", tactic=tactic)


def test_another_tactic_of_the_same_layer_is_told_with_both():
    changes = kernel_changes(
        engine(conv("a"), conv("b"), conv("c")), engine(conv("a"), conv("b", "gemm_128"), conv("c"))
    )
    assert changes == (KernelChange("b", "gemm_64x64", "gemm_128"),)


def test_layers_that_are_fused_otherwise_are_told_from_both_sides():
    plain = EngineLayer("c", "Shuffle")
    changes = kernel_changes(engine(conv("a + b"), plain), engine(conv("a"), conv("b"), plain))
    assert changes == (
        KernelChange("a + b", "gemm_64x64", ""),
        KernelChange("a", "", "gemm_64x64"),
        KernelChange("b", "", "gemm_64x64"),
    )


def test_layers_without_a_tactic_differ_by_their_kind():
    (change,) = kernel_changes(engine(EngineLayer("a", "kgen")), engine(EngineLayer("a", "Myelin")))
    assert (change.present, change.build) == ("kgen", "Myelin")


def test_names_alone_tell_of_layers_that_come_and_go():
    (change,) = kernel_changes(engine(EngineLayer("a")), engine(EngineLayer("a"), EngineLayer("b")))
    assert (change.layer, change.present) == ("b", "")
    assert change.build  # it is there, whatever it is


def test_an_engine_has_no_changes_against_itself():
    for path in PRINTOUTS:
        assert kernel_changes(read(path.stem), read(path.stem)) == ()
    assert kernel_changes(engine(), engine()) == ()
