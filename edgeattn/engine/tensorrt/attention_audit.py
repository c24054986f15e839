"""How an engine computes each attention of its model: with our plugin, fused, or in pieces.

The verdict rests on the layers that the engine's inspector names for the attention's nodes:

    plugin   a plugin layer comes from the attention's node; or a layer bears its very name, which
             nothing else can: TensorRT has no operator of that type
    fused    one layer whose kernel is known for fused attention (`layer_kinds`) comes from all of
             the nodes that have to be in one kernel: both products and the softmax, or the one
             attention operator
    unfused  two layers or more compute these nodes, none of which is such a kernel for all of them
    unknown  the engine shows too little: layers by name only, nodes that no layer names, a black
             box that holds everything, one kernel whose name says nothing; or it shows several
             ways to compute the attention at once

So `fused` is said on evidence alone, never because nothing speaks against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgeattn.engine.tensorrt.inspector import EngineInfo, EngineLayer
from edgeattn.engine.tensorrt.layer_kinds import (
    COMPUTE_KINDS,
    PRODUCT_KINDS,
    LayerKind,
    is_fused_attention,
    is_same_type,
    kind_of_layer,
    precision_of_layer,
)
from edgeattn.engine.tensorrt.precision import UNKNOWN

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.lowering import AttentionWay, LoweredAttention

AttentionVerdict = Literal["plugin", "fused", "unfused", "unknown"]

_EXPECTED: dict[AttentionWay, AttentionVerdict] = {
    "plugin": "plugin",
    "native": "fused",
    "attention": "fused",
}


@dataclass(frozen=True)
class AttentionFinding:
    """How one attention is computed.

    Attributes:
        name: Of the attention's node in the source graph.
        verdict: As the module tells.
        layers: Names of the layers that compute it; of black boxes if it is in one.
        dtype: numpy's name of the type that it computes in; empty if the engine does not tell, and
            with `+` between them if pieces differ.
        reasons: Why it is not computed as the graph was lowered for; none if it is.
        notes: What the lowering did that costs something, such as padded heads.
    """

    name: str
    verdict: AttentionVerdict
    layers: tuple[str, ...]
    dtype: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Turn the finding into plain JSON values."""
        return asdict(self)


def audit_attention(
    attention: Sequence[LoweredAttention],
    info: EngineInfo,
    asked: Mapping[str, str] | None = None,
    order: Sequence[str] = (),
) -> tuple[AttentionFinding, ...]:
    """Tell how an engine computes each attention.

    Args:
        attention: What the graph was lowered to.
        info: What the engine's inspector tells.
        asked: Types that the graph asks for, as `asked_precisions` gives them; types are not
            compared if not given.
        order: Names of the lowered graph's nodes, to find what lies in black boxes.
    """
    return tuple(_Audit(each, info, asked or {}, order).finding() for each in attention)


class _Audit:
    """Looks at one attention."""

    def __init__(
        self,
        attention: LoweredAttention,
        info: EngineInfo,
        asked: Mapping[str, str],
        order: Sequence[str],
    ) -> None:
        self._attention = attention
        self._asked = {asked[node] for node in attention.core if node in asked} - {UNKNOWN}
        self._info = info
        self._core = frozenset(attention.core)
        named = [(layer, kind_of_layer(layer)) for layer in info.layers_of(self._core)]
        # Reformats and moves of an operand name its node too; they compute nothing.
        self._computing = [layer for layer, kind in named if kind in COMPUTE_KINDS]
        self._products = [layer for layer, kind in named if kind in PRODUCT_KINDS]
        self._plugins = [
            layer for layer, kind in named if kind == "plugin" or self._bears_our_name(layer, kind)
        ]
        self._fused = [layer for layer, kind in named if kind == "attention"]
        self._boxes = [layer for layer, kind in named if kind == "opaque"]
        self._boxes += [
            layer for layer in info.black_boxes_of(self._core, order) if layer not in self._boxes
        ]

    def finding(self) -> AttentionFinding:
        verdict, layers = self._verdict()
        # Between INT8 products the softmax may be in float: the products tell the type.
        products = [layer for layer in layers if layer in self._products] or layers
        dtypes = sorted({precision_of_layer(layer) for layer in products})
        return AttentionFinding(
            self._attention.name,
            verdict,
            tuple(layer.name for layer in layers),
            "" if "" in dtypes else "+".join(dtypes),
            tuple(self._reasons(verdict, layers, dtypes)),
            (str(self._attention.padded),) if self._attention.padded else (),
        )

    def _verdict(self) -> tuple[AttentionVerdict, Sequence[EngineLayer]]:
        whole = [layer for layer in self._computing if self._core <= set(layer.onnx_nodes)]
        fused = [layer for layer in whole if layer in self._fused]
        evidence: dict[AttentionVerdict, Sequence[EngineLayer]]
        evidence = {"plugin": self._plugins, "fused": fused}
        for verdict, layers in evidence.items():
            # An engine of several profiles may compute it in several ways.
            if layers and all(layer in layers for layer in self._products):
                return verdict, layers
        # Each piece of a lone operator bears its name.
        in_one = bool(whole) and len(self._core) > 1
        in_pieces = len(self._computing) > 1 and not in_one
        if in_pieces and self._is_detailed and not (self._plugins or self._fused):
            return "unfused", self._computing
        return "unknown", self._computing or self._boxes

    def _bears_our_name(self, layer: EngineLayer, kind: LayerKind) -> bool:
        return self._attention.way == "plugin" and kind == "other" and layer.name in self._core

    @property
    def _is_detailed(self) -> bool:
        """Names alone may leave nodes out: what they do not show is not known."""
        return self._info.verbosity == "detailed"

    def _reasons(
        self, verdict: AttentionVerdict, layers: Sequence[EngineLayer], dtypes: Sequence[str]
    ) -> Iterator[str]:
        attention = self._attention
        if verdict == "unknown":
            yield self._doubt()
            yield from attention.obstacles
            return
        if verdict != _EXPECTED[attention.way]:
            if attention.way == "plugin":
                yield f"it was to run in our plugin, and TensorRT computes it in {_names(layers)}"
            elif attention.obstacles:
                yield from attention.obstacles
            else:
                yield "it keeps TensorRT's published rules for fused attention; TensorRT declined"
        known = [dtype for dtype in dtypes if dtype]
        if self._asked and not all(self._is_asked(dtype) for dtype in known):
            asked = "+".join(sorted(self._asked))
            yield f"the graph has it in {asked}, and it computes in {'+'.join(known)}"

    def _is_asked(self, dtype: str) -> bool:
        return any(is_same_type(asked, dtype) for asked in self._asked)

    def _doubt(self) -> str:
        """Say why nothing is known."""
        if not self._is_detailed:
            kernels = sum(map(is_fused_attention, self._info.layers))
            return (
                "the engine was not built with detailed profiling verbosity; it has "
                f"{kernels} kernels of fused attention in all"
            )
        known = [*self._plugins, *self._fused]
        missing = self._core - {node for layer in known for node in layer.onnx_nodes}
        if known and missing:
            return f"{_names(known)} does not come from {', '.join(sorted(missing))} as well"
        if known:
            return f"it is in more layers than one that could hold it all: {_names(self._products)}"
        if self._computing:
            return f"nothing tells what kernel {_names(self._computing)} is"
        if self._boxes:
            return f"it is in a black box, whose kernels are not shown: {_names(self._boxes)}"
        return f"no layer of the engine comes from {', '.join(sorted(self._core))}"


def _names(layers: Sequence[EngineLayer]) -> str:
    names = ", ".join(layer.name for layer in layers[:3])
    count = f"{len(layers)} layers: " if len(layers) > 1 else ""
    return count + names + (", …" if len(layers) > 3 else "")
