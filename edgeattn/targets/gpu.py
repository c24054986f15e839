"""The figures of one GPU, each with the document it is from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """A GPU's figures at its highest clock. What no source at hand gives is `None`, never guessed.

    Attributes:
        name: Which module or card, for people.
        architecture: SM number.
        sm_count: Streaming multiprocessors.
        clock_ghz: Their highest clock: a module's maximum, a card's boost clock.
        memory_gb_s: Peak memory bandwidth in 10^9 bytes a second.
        fp16_tflops: Dense FP16 matrix products with FP32 accumulation, peak; the same in BF16.
        int8_tops: Dense INT8 matrix products, peak.
        memory_bytes: Its memory; on a Jetson the module's, which the system shares.
        fp8_tflops: Dense FP8 matrix products with FP32 accumulation, peak.
        fp4_tflops: Dense FP4 matrix products, peak.
        sources: Where each figure is from, by its name here.
    """

    name: str
    architecture: int
    sm_count: int | None
    clock_ghz: float | None
    memory_gb_s: float | None
    fp16_tflops: float | None
    int8_tops: float | None
    memory_bytes: int | None = None
    fp8_tflops: float | None = None
    fp4_tflops: float | None = None
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def source(self) -> str:
        """All sources, each once."""
        return "; ".join(dict.fromkeys(self.sources.values()))

    def with_figures(self, sources: Mapping[str, str], **figures: Any) -> Gpu:
        """Copy it with other figures.

        Args:
            sources: Where those are from that the sources named so far do not hold.
            figures: Attributes and their values.
        """
        return replace(self, sources={**self.sources, **sources}, **figures)


def cited(document: str, figures: str) -> dict[str, str]:
    """Name a document as the source of figures.

    Args:
        document: Which, and where in it.
        figures: Names of `Gpu`'s attributes, separated by blanks.
    """
    return dict.fromkeys(figures.split(), document)
