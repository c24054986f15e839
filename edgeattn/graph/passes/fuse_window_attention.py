"""Put attention nodes in the place of window attention that a graph writes out.

What an attention computes is read off at concrete sizes of the graph's inputs: which token stands
at which place of which window (`fusion/moves.py`, `fusion/windows.py`), and what is added to the
logits (`fusion/bias.py`). A dynamic graph is looked at in several sizes, which must agree. Each
rewrite is run against what it replaces, and undone if the numbers differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import onnx
from onnx import numpy_helper

from edgeattn.errors import GraphError
from edgeattn.graph.attention_products import AttentionProducts
from edgeattn.graph.constants import Constants, drop_orphans, used_names
from edgeattn.graph.fusion.agree import agree, is_padding_untold, is_untold
from edgeattn.graph.fusion.found import FoundAttention, Fusion, UnrecognisedError
from edgeattn.graph.fusion.match import AttentionNodes, Match, match_attention
from edgeattn.graph.fusion.moves import Moves
from edgeattn.graph.fusion.output import Readers
from edgeattn.graph.fusion.probe import Probe
from edgeattn.graph.fusion.rewrite import Rewrite
from edgeattn.graph.fusion.sizes import MOST_SIZES, input_sizes, is_static, more_input_sizes
from edgeattn.graph.fusion.trial import compare
from edgeattn.graph.nodes import is_standard, node_label, standard_opset
from edgeattn.graph.op import OP_DOMAIN, OP_VERSION
from edgeattn.graph.passes.raise_opset import raise_opset

# A dynamic graph need not be looked at in sizes at which an attention has more logits.
_MOST_LOGITS = 4_000_000
_CLOSED = "it is one Attention node of the ONNX standard; export with an opset below 23"
_LEAST_OPSET = 18  # attention nodes are decomposed into operators of it


def fuse_window_attention(
    model: onnx.ModelProto,
    *,
    global_attention: bool = False,
) -> Fusion:
    """Find window attention and put attention nodes in its place.

    Args:
        model: Any graph; not changed.
        global_attention: Whether to take attention of every token to every token too, as one
            window of the whole axis.

    Returns:
        The new graph, and what became of each attention.
    """
    written = _written(model)
    before = len(model.graph.node)
    closed = tuple(
        FoundAttention(node_label(node), False, _CLOSED)
        for node in model.graph.node
        if is_standard(node, "Attention")
    )
    if not written:
        return Fusion(model, closed, before, before)
    given = model
    try:
        model = raise_opset(model, _LEAST_OPSET)
        written = _written(model)
        looked_at = _looked_at(model, written)
    except GraphError as err:
        return _left_alone(given, written, f"the graph cannot be looked at: {err.message}")
    fuser = _Fuser(model, looked_at, standard_opset(model), global_attention=global_attention)
    found = (*(fuser.fuse(each) for each in written), *closed)
    if not any(each.fused for each in found):
        return Fusion(given, found, before, before)
    result = fuser.finish()
    return Fusion(result, found, before, len(result.graph.node))


def _written(model: onnx.ModelProto) -> list[AttentionNodes]:
    nodes = model.graph.node
    products = AttentionProducts(model.graph, Constants(model))
    return [
        AttentionNodes(
            nodes[each.softmax],
            frozenset(name for i in each.logits for name in nodes[i].output),
            nodes[each.outputs[0]],
        )
        for each in products.found
    ]


def _looked_at(model: onnx.ModelProto, written: list[AttentionNodes]) -> list[Probe]:
    """Look at a graph in some of the sizes proposed that it can have.

    Raises:
        GraphError: If it can have none of them.
    """
    found: list[Probe] = []
    too_large: list[Probe] = []
    failure = None
    for shapes in input_sizes(model):
        try:
            probe = Probe(model, shapes)
        except GraphError as err:
            failure = err
            continue
        largest = max(_elements(probe.shape(each.softmax.input[0])) for each in written)
        (too_large if largest > _MOST_LOGITS else found).append(probe)
        if len(found) == MOST_SIZES:
            break
    if not found and not too_large:
        assert failure is not None  # at least one size is proposed
        raise failure
    return found or too_large[-1:]


def _elements(shape: tuple[int, ...] | None) -> int:
    return math.prod(shape) if shape is not None else 0


def _left_alone(model: onnx.ModelProto, written: list[AttentionNodes], reason: str) -> Fusion:
    found = tuple(FoundAttention(node_label(each.softmax), False, reason) for each in written)
    count = len(model.graph.node)
    return Fusion(model, found, count, count)


class _Fuser:
    """Finds what takes the place of each attention, and then puts all of it there."""

    def __init__(
        self, model: onnx.ModelProto, probes: list[Probe], opset: int, *, global_attention: bool
    ) -> None:
        self._model = model
        self._probes = probes
        self._opset = opset
        self._global = global_attention
        self._readers = Readers(model.graph)
        self._used = used_names(model.graph)
        self._names = {node.name for node in model.graph.node}
        self._rewrites: dict[str, Rewrite] = {}
        self._more: list[Probe] = []
        self._more_sizes = more_input_sizes(model)

    def fuse(self, written: AttentionNodes) -> FoundAttention:
        """Recognise an attention at each size, and try its rewrite at each."""
        name = node_label(written.softmax)
        match, rewrite = None, None
        try:
            match, probes = self._match(written)
            rewrite = Rewrite(match, probes[0], self._new_name(name))
            error = max(
                compare(
                    self._model,
                    probe,
                    match.tokens,
                    match.outputs[0].name,
                    rewrite.nodes,
                    rewrite.weights,
                )
                for probe in probes
            )
        except (UnrecognisedError, GraphError) as err:
            reason = err.message if isinstance(err, GraphError) else str(err)
            spec = rewrite.spec if rewrite is not None else None
            return FoundAttention(name, False, reason, spec)
        self._rewrites[match.outputs[0].name] = rewrite
        return FoundAttention(
            name, True, "", rewrite.spec, match.tokens, match.outputs[0].name, match.size, error
        )

    def _match(self, written: AttentionNodes) -> tuple[Match, list[Probe]]:
        """Recognise an attention at each size that the graph can have; gives those sizes too."""
        matches, probes, misfit = [], [], None
        for probe in list(self._probes):
            try:
                match = self._match_at(written, probe)
            except GraphError as err:
                misfit = err
                if len(self._probes) > 1:
                    self._probes.remove(probe)
            else:
                matches.append(match)
                probes.append(probe)
        if not matches:
            assert misfit is not None  # there is at least one size
            raise misfit
        match = agree(matches)
        for probe in self._more_probes():
            if not is_untold(match):
                break
            if not self._tells_more(match, probe):
                continue
            try:
                match = agree([match, self._match_at(written, probe)])
            except GraphError:  # the graph cannot have inputs of this size: no attention can
                self._more.remove(probe)
                continue
            probes.append(probe)
        return match, probes

    def _match_at(self, written: AttentionNodes, probe: Probe) -> Match:
        return match_attention(
            written,
            probe,
            Moves(probe, self._opset),
            self._readers,
            self._opset,
            global_attention=self._global,
        )

    def _more_probes(self) -> Iterator[Probe]:
        """Look at the graph in further sizes, once for all attentions."""
        yield from list(self._more)
        for shapes in self._more_sizes:
            try:
                probe = Probe(self._model, shapes)
            except GraphError:
                continue
            self._more.append(probe)
            yield probe

    @staticmethod
    def _tells_more(match: Match, probe: Probe) -> bool:
        """Tell whether a map has a size there at which what is not known yet would show.

        What padded tokens do shows where windows do not divide a map; by how much they are
        shifted, where an axis has several.
        """
        shape = probe.shape(match.tokens)
        if shape is None or not match.has_rows or 0 in match.window_size:
            return False
        axes = list(zip(shape[1:3], match.window_size, match.shift_size, strict=True))
        if math.prod(shape[:3]) * math.prod(match.window_size) * len(match.scale) > _MOST_LOGITS:
            return False
        return (
            is_padding_untold(match) and any(length % window for length, window, _ in axes)
        ) or any(shift is None and length > window for length, window, shift in axes)

    def _new_name(self, softmax: str) -> str:
        """Name the attention node after the module of the softmax."""
        scope = softmax.rpartition("/")[0] or softmax
        name, number = f"{scope}/MultiScaleWindowAttention", 1
        while name in self._names:
            number += 1
            name = f"{scope}/MultiScaleWindowAttention_{number}"
        self._names.add(name)
        return name

    def _fixed_values(self) -> set[str]:
        """List what a graph of one size computes from sizes, which holds on to what it is of."""
        probe = self._probes[0]
        fixed: set[str] = set()
        for node in self._model.graph.node:
            of_size = is_standard(node, "Shape", "Size") or not fixed.isdisjoint(node.input)
            if of_size and all(probe.is_known(name) for name in node.output if name):
                fixed.update(filter(None, node.output))
        return fixed

    def finish(self) -> onnx.ModelProto:
        """Make a graph with the new nodes where the old ones made their results.

        What nobody reads any more is left out. The weights, most of a model, are copied once.
        """
        result = onnx.ModelProto()
        for field, value in self._model.ListFields():
            if field.name != "graph":
                _copy_field(result, field.name, value)
        graph, old = result.graph, self._model.graph
        for field, value in old.ListFields():
            if field.name not in ("node", "initializer"):
                _copy_field(graph, field.name, value)
        fixed = self._fixed_values() if is_static(self._model) else set()
        weights = list(old.initializer)
        for node in old.node:
            rewrite = next((self._rewrites[o] for o in node.output if o in self._rewrites), None)
            if not fixed.isdisjoint(node.output):
                weights += (
                    numpy_helper.from_array(self._probes[0].value(name), name)
                    for name in filter(None, node.output)
                )
            elif rewrite is not None:
                graph.node.extend(rewrite.nodes)
                weights += rewrite.weights
            else:
                graph.node.append(node)
        if all(entry.domain != OP_DOMAIN for entry in result.opset_import):
            result.opset_import.add(domain=OP_DOMAIN, version=OP_VERSION)
        drop_orphans(result, self._used)
        orphans = self._used - used_names(graph)
        graph.initializer.extend(weight for weight in weights if weight.name not in orphans)
        return result


def _copy_field(message: Any, name: str, value: Any) -> None:
    """Copy one field of a protobuf message into another of its kind."""
    field = getattr(message, name)
    if hasattr(field, "extend"):
        field.extend(value)
    elif hasattr(field, "CopyFrom"):
        field.CopyFrom(value)
    else:
        setattr(message, name, value)
