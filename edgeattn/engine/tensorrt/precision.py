"""Which precision an engine computes in, beside what its graph asked for.

What counts is products: convolutions, matrix products and attention, where nearly all the
arithmetic is. For each product of the graph that is no constant, the layer is found that computes
it, and the type that this layer computes in. What the graph asks for is written in it: INT8 where
both factors come from a DequantizeLinear, else the type of the tensors. So a product that a recipe
kept in float counts as asked for in float, and a product that the graph has in INT8 and TensorRT
computes in FP16, which it does without a word, shows by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from onnx import TensorProto, helper

from edgeattn.engine.tensorrt.inspector import EngineInfo, EngineLayer
from edgeattn.engine.tensorrt.layer_kinds import (
    COMPUTE_KINDS,
    PRODUCT_KINDS,
    LayerKind,
    is_same_type,
    kind_of_layer,
    precision_of_layer,
)
from edgeattn.engine.tensorrt.products import product_types
from edgeattn.errors import BuildError
from edgeattn.graph.nodes import node_label
from edgeattn.graph.shapes import TensorType, infer_types

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.lowering import LoweredForTensorRt

UNKNOWN = "unknown"

# What `--require-precision` takes, the smallest first, and numpy's name of each.
REQUIRED_DTYPES = {"int8": "int8", "fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}

_NAMED = 5  # as many of a kind are named in an error


@dataclass(frozen=True)
class Product:
    """A product of the graph in the engine.

    Attributes:
        node: Label of the graph's node.
        asked: Type that the graph asks for, as numpy calls it, or `unknown`.
        got: Type that the engine computes in, or `unknown` if it does not show it.
        layers: Names of the layers that compute it; none if the engine names none for it.
    """

    node: str
    asked: str
    got: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class PrecisionShares:
    """How many layers of an engine compute in which precision, and what differs from the graph.

    Keys of the counts are numpy's names of types, `tf32`, or `unknown`.

    Attributes:
        layers: Layers in all.
        compute: Layers that do arithmetic, per type.
        products: Those of them with matrix products, per type.
        reformats: Changes of layout or type that TensorRT put between layers.
        reformat_bytes: What they read and write, as far as sizes are known.
        moves: Kernels of the model that only move or cast values.
        move_bytes: What they read and write.
        quantize_layers: Q/DQ that became layers of their own.
        asked: Products of the graph per type that it asks for.
        changed: Products that the engine computes in another type.
        unproven: Products whose type the engine does not show.
    """

    layers: int
    compute: Mapping[str, int]
    products: Mapping[str, int]
    reformats: int
    reformat_bytes: int
    moves: int
    move_bytes: int
    quantize_layers: int
    asked: Mapping[str, int]
    changed: tuple[Product, ...]
    unproven: tuple[Product, ...]

    def to_dict(self) -> dict[str, Any]:
        """Turn the shares into plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PrecisionShares:
        """Read what `to_dict` gave."""
        products = {
            name: tuple(
                Product(**{**each, "layers": tuple(each["layers"])}) for each in values[name]
            )
            for name in ("changed", "unproven")
        }
        return cls(**{**values, **products})


def asked_precisions(lowered: LoweredForTensorRt) -> dict[str, str]:
    """Read what a graph asks for: the type of each of its products, by the node's label.

    Attention that the source graph has in INT8 is asked for in INT8, though it may have been
    lowered in float where TensorRT has no INT8 kernel for it.

    Args:
        lowered: The graph that TensorRT's parser was given.

    Returns:
        numpy's name of the type of the factors; `unknown` where it cannot be inferred.
    """
    found = product_types(lowered.model)
    asked = {node: dtype for dtype, nodes in found.items() for node in nodes}
    # Attention that is one node; of written-out attention the products are among those above.
    nodes = {name for each in lowered.attention if each.way != "native" for name in each.core}
    if nodes:
        types = infer_types(lowered.model)
        for node in lowered.model.graph.node:
            if node_label(node) in nodes:
                asked[node_label(node)] = _name_of(types.get(node.input[0]))
    in_int8 = {name for each in lowered.attention if each.asks_int8 for name in each.core}
    return asked | {name: "int8" for name in asked if name in in_int8}


def _name_of(found: TensorType | None) -> str:
    if found is None or found.element == TensorProto.UNDEFINED:
        return UNKNOWN
    if found.element == TensorProto.BFLOAT16:
        return "bfloat16"  # older versions of onnx take float32 for it
    return str(helper.tensor_dtype_to_np_dtype(found.element).name)


def precision_shares(info: EngineInfo, asked: Mapping[str, str]) -> PrecisionShares:
    """Count an engine's layers per precision and compare them with what the graph asked for.

    Args:
        info: What the engine's inspector tells.
        asked: Type of each product of the graph, as `asked_precisions` gives it.
    """
    kinds = [(layer, kind_of_layer(layer)) for layer in info.layers]
    finder = _Finder(kinds)
    products = [finder.product(node, dtype) for node, dtype in asked.items()]
    count, size = _counts(kinds)
    return PrecisionShares(
        layers=len(kinds),
        compute=_per_precision(layer for layer, kind in kinds if kind in COMPUTE_KINDS),
        products=_per_precision(layer for layer, kind in kinds if kind in PRODUCT_KINDS),
        reformats=count["reformat"],
        reformat_bytes=size["reformat"],
        moves=count["move"],
        move_bytes=size["move"],
        quantize_layers=count["quantize"],
        asked=dict(sorted(Counter(asked.values()).items())),
        changed=tuple(each for each in products if _is_changed(each)),
        unproven=tuple(each for each in products if each.got == UNKNOWN),
    )


def check_required_precision(shares: PrecisionShares, required: str) -> None:
    """Refuse an engine that does not compute in the precision that was required.

    The graph says which of its products are to be in that precision; there has to be one at least.
    Every one of them has to be computed by a layer that is shown to compute in it: one in another
    type is a breach, and so is one of which the engine does not show the type. Products that the
    graph itself has in other types are none.

    Args:
        shares: As `precision_shares` gives them.
        required: `fp32`, `fp16`, `bf16` or `int8`, or several with `+` between them: each is
            required where the graph has it, and it has to have the smallest.

    Raises:
        BuildError: If it does not, or the precision is unknown.
    """
    names = required.split("+")
    for name in names:
        if name not in REQUIRED_DTYPES:
            known = ", ".join(REQUIRED_DTYPES)
            raise BuildError(
                f"{name!r} is no precision to require; expected {known}",
                "join several with +: int8+fp16",
            )
    smallest = next(name for name in REQUIRED_DTYPES if name in names)
    if not shares.asked.get(REQUIRED_DTYPES[smallest]):
        asked = ", ".join(f"{count} in {each}" for each, count in shares.asked.items())
        raise BuildError(
            f"{smallest} was required, but the graph asks for {REQUIRED_DTYPES[smallest]} in none "
            f"of its products ({asked or 'it has none'})",
            f"write it into the graph first: edgeattn quantize --precision {required}",
        )
    for name in names:
        _check(shares, name, REQUIRED_DTYPES[name])


def _check(shares: PrecisionShares, name: str, dtype: str) -> None:
    total = shares.asked.get(dtype, 0)
    changed = [each for each in shares.changed if each.asked == dtype]
    if changed:
        raise BuildError(
            f"{name} was required, but {len(changed)} of the {total} products that the graph has "
            f"in {dtype} are computed in another type: {_names(changed)}",
            "TensorRT may have no kernel of this type for them on this GPU: see the build's log, "
            "or keep these nodes in float",
        )
    unproven = [each for each in shares.unproven if each.asked == dtype]
    if unproven:
        raise BuildError(
            f"{name} was required, but the engine does not show the type of {len(unproven)} of the "
            f"{total} products that the graph has in {dtype}: {_names(unproven)}",
            "build with --profiling-verbosity detailed; parts in one black box cannot be shown",
        )


def _names(products: Sequence[Product]) -> str:
    named = [
        each.node if each.got == UNKNOWN else f"{each.node} ({each.got})"
        for each in products[:_NAMED]
    ]
    rest = len(products) - len(named)
    return ", ".join(named) + (f" and {rest} more" if rest else "")


class _Finder:
    """Finds the layers that compute a node, and their type."""

    def __init__(self, kinds: Iterable[tuple[EngineLayer, LayerKind]]) -> None:
        self._layers: dict[str, list[tuple[EngineLayer, LayerKind]]] = {}
        for layer, kind in kinds:
            for node in layer.onnx_nodes:
                self._layers.setdefault(node, []).append((layer, kind))

    def product(self, node: str, asked: str) -> Product:
        found = self._layers.get(node, [])
        # A kernel that prepares a factor names the node too; products are surer than others.
        for kinds in (PRODUCT_KINDS, COMPUTE_KINDS, {"opaque"}):
            layers = [(layer, kind) for layer, kind in found if kind in kinds]
            if layers:
                break
        dtypes = {
            # Engines of dynamic shapes may tell no types; strong typing leaves a plugin no choice.
            asked if kind == "plugin" and not precision_of_layer(layer) else _precision(layer)
            for layer, kind in layers
        }
        # All have to be as asked. One that differs is a fact, whatever others do not show.
        others = sorted(dtypes - {asked, UNKNOWN})
        as_asked = asked if dtypes == {asked} else UNKNOWN
        got = others[0] if others else as_asked
        return Product(node, asked, got, tuple(layer.name for layer, _ in layers))


def _is_changed(product: Product) -> bool:
    """Tell whether a product is known not to be computed as asked."""
    is_known = UNKNOWN not in (product.asked, product.got)
    return is_known and not is_same_type(product.asked, product.got)


def _precision(layer: EngineLayer) -> str:
    return precision_of_layer(layer) or UNKNOWN


def _per_precision(layers: Iterable[EngineLayer]) -> dict[str, int]:
    return dict(sorted(Counter(map(_precision, layers)).items()))


def _counts(
    kinds: Iterable[tuple[EngineLayer, LayerKind]],
) -> tuple[Counter[LayerKind], Counter[LayerKind]]:
    """Count layers and their bytes, per kind."""
    count: Counter[LayerKind] = Counter()
    size: Counter[LayerKind] = Counter()
    for layer, kind in kinds:
        count[kind] += 1
        size[kind] += layer.num_bytes or 0
    return count, size
