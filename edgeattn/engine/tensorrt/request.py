"""What a TensorRT build is asked for, beside the graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgeattn.engine.tensorrt.lowering import AttentionWay
from edgeattn.engine.tensorrt.options import TensorRtOptions


@dataclass(frozen=True)
class TensorRtRequest:
    """One TensorRT engine, as a user asks for it.

    Attributes:
        options: Options of the builder.
        attention: What computes attention: our plugin, standard operators, or ONNX's Attention.
        autotune_attention: Build every way that this TensorRT has, and keep the fastest.
        require_precision: Fail unless the engine computes in it what the graph has in it: `int8`,
            `fp16`, `bf16`, `fp32`, or several with `+` between them.
        target: Name of a target. A dry run plans for it; a build makes sure that this is one.
        jetpack: JetPack release of the target.
        tensorrt_version: Version to plan for; a build makes sure that it is the one here.
        lowered_graph: File to write the graph to that TensorRT's parser gets; none to keep none.
    """

    options: TensorRtOptions = field(default_factory=TensorRtOptions)
    attention: AttentionWay = "plugin"
    autotune_attention: bool = False
    require_precision: str | None = None
    target: str | None = None
    jetpack: str | None = None
    tensorrt_version: str | None = None
    lowered_graph: Path | None = None
