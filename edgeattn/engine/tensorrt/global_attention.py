"""Whether our kernel shall compute attention of all tokens to all, or TensorRT with its own means.

TensorRT fuses such attention by itself where type and heads are right; ours could at best be as
fast there. Elsewhere it runs products and softmax as kernels of their own, whose scores go through
memory: what either takes at least is worked out on the roofline, at the same shares of the GPU's
peaks. TensorRT is given the benefit of the doubt: the copies around are taken to cost nothing.
"""

from __future__ import annotations

from dataclasses import replace

from onnx import TensorProto

from edgeattn.engine.tensorrt.destination import Destination, plan_for
from edgeattn.engine.tensorrt.gpu import figures_of_gpu
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import EngineError, MissingDependencyError, TargetError
from edgeattn.graph.fused_mha import NOT_HALF, half_group_obstacle
from edgeattn.graph.fusion.found import GlobalChoice, GlobalDecision, GraphType
from edgeattn.graph.kernel_heads import kernel_head_dim, kernel_head_obstacle
from edgeattn.plugin.attention_cost import Way, attention_costs
from edgeattn.plugin.roofline import roofline_of
from edgeattn.spec import AttentionSpec
from edgeattn.targets import Gpu, get_target

# How many times as fast ours has to be predicted. An assumption, meant to be a careful one: scores
# of few tokens may stay in the L2 cache, our plain kernel of FP32 reaches less of its peak than
# matrix units do of theirs, and there is no time of our kernels on a board yet to set it by.
LEAST_SPEEDUP = 3.0

_ELEMENTS: dict[str, int] = {
    "FP32": TensorProto.FLOAT,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
}
_OTHERWISE = "--global-attention fuses it, --autotune-attention measures"
_OLDEST = "10.3"


def global_choice(
    gpu: Gpu | None, version: TensorRtVersion, precision: str | None = None
) -> GlobalChoice:
    """Give the rule by which attention of all tokens to all is fused for TensorRT.

    It is left where TensorRT fuses it by itself, where our kernels do not take it, where the GPU or
    the number of tokens is not known, and where ours is not predicted to be `LEAST_SPEEDUP` times
    as fast. The reason tells both times.

    Args:
        gpu: The GPU; `None` if no figures of it are known.
        version: The TensorRT.
        precision: `fp32`, `fp16` or `bf16`, what the engine is to compute in; by default the type
            that the graph has the attention in.
    """

    def choose(
        spec: AttentionSpec, size: tuple[int, int, int] | None, graph_type: GraphType
    ) -> GlobalDecision:
        if gpu is None:
            return _left(f"no figures of the GPU are known to predict by; {_OTHERWISE}")
        if size is None:
            return _left(f"the graph leaves the number of its tokens open; {_OTHERWISE}")
        element = (precision or graph_type).upper()
        obstacle = NOT_HALF
        if element != "FP32":
            (group,) = spec.head_groups
            obstacle = half_group_obstacle(spec, group, pads_heads=version.pads_heads)
        if not obstacle:
            return _left(
                f"TensorRT fuses it by itself: {element}, heads of {spec.head_dim} channels"
            )
        unfit = kernel_head_obstacle(spec.head_dim, _ELEMENTS[element])
        if unfit:
            return _left(unfit)
        padded = kernel_head_dim(spec.head_dim, _ELEMENTS[element])
        try:
            ours, theirs = _least_us(spec, padded, size, gpu, 4 if element == "FP32" else 2)
        except TargetError as err:
            return _left(f"{err.message}; {_OTHERWISE}")
        times = (
            f"at least {ours:.3g} µs in our kernel"
            + (f" with heads padded to {padded} channels" if padded > spec.head_dim else "")
            + f", {theirs:.3g} µs in kernels for each step on {gpu.name}"
        )
        if theirs > LEAST_SPEEDUP * ours:
            return GlobalDecision(True, f"predicted to be faster: {times}; {obstacle}")
        return _left(f"not predicted to be {LEAST_SPEEDUP:g} times as fast: {times}")

    return choose


def choice_for_target(target: str, precision: str) -> GlobalChoice:
    """Give the rule for a board and its newest TensorRT, or for this machine's GPU.

    Args:
        target: Name of a target; of `desktop` the GPU of this machine counts.
        precision: `fp32`, `fp16` or `bf16`.

    Raises:
        TargetError: If there is no such target.
    """
    # A desktop's TensorRT may be any: the oldest one, which fuses the least, need not be here.
    version = None if get_target(target).jetpacks else _OLDEST
    destination = plan_for(target, tensorrt=version)
    return global_choice(gpu_of(destination), destination.version, precision)


def gpu_of(destination: Destination) -> Gpu | None:
    """Give the figures of the GPU that an engine is for; `None` if they are not known.

    Of a board's modules they are those that none exceeds; without a board those of this machine's
    first GPU.
    """
    if destination.target is not None and destination.target.gpu is not None:
        return destination.target.gpu
    if not destination.architectures:
        return None
    try:
        gpu = figures_of_gpu()
    except (EngineError, MissingDependencyError):  # a dry run plans without a GPU, too
        return None
    return gpu if gpu is not None and gpu.architecture in destination.architectures else None


def _left(reason: str) -> GlobalDecision:
    return GlobalDecision(False, reason)


def _least_us(
    spec: AttentionSpec,
    padded_head_dim: int,
    size: tuple[int, int, int],
    gpu: Gpu,
    element_bytes: int,
) -> tuple[float, float]:
    """Work out the least time in our kernel, with its heads, and in a kernel for each step."""

    def least_us(way: Way, head_dim: int) -> float:
        sized = replace(spec, head_dim=head_dim)
        costs = attention_costs(sized, *size, element_bytes=element_bytes, copies=False)
        return roofline_of(costs[way], gpu, way=way, element_bytes=element_bytes).least_us

    return least_us("plugin", padded_head_dim), least_us("separate", spec.head_dim)
