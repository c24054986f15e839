"""In which kernels two builds of one network differ, as far as the engines tell."""

from __future__ import annotations

from dataclasses import dataclass

from edgeattn.engine.tensorrt.inspector import EngineInfo, EngineLayer


@dataclass(frozen=True)
class KernelChange:
    """A layer that two builds compute otherwise.

    Attributes:
        layer: Its name.
        present: Its kernel in the first; empty if the layer is not in it, its nodes being fused
            in another way.
        build: Its kernel in the second; likewise.
    """

    layer: str
    present: str
    build: str


def kernel_changes(present: EngineInfo, build: EngineInfo) -> tuple[KernelChange, ...]:
    """List the layers of two engines that differ: those of the first, then the second's others.

    Args:
        present: One engine.
        build: Another one, of the same network.
    """
    before, after = (
        {layer.name: _kernel(layer) for layer in each.layers} for each in (present, build)
    )
    return tuple(
        KernelChange(name, before.get(name, ""), after.get(name, ""))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    )


def _kernel(layer: EngineLayer) -> str:
    """Name what computes a layer; never empty."""
    return layer.tactic or layer.layer_type or "not told"
