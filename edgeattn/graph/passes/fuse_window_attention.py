"""Put attention nodes in the place of window attention that a graph writes out.

What an attention computes is read off at concrete sizes of the graph's inputs: which token stands
at which place of which window (`fusion/moves.py`, `fusion/windows.py`), and what is added to the
logits (`fusion/bias.py`). A dynamic graph is looked at in several sizes, which must agree. Each
rewrite is run against what it replaces, and undone if the numbers differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import onnx
from onnx import TensorProto, numpy_helper

from edgeattn.errors import GraphError
from edgeattn.graph.attention_products import AttentionProducts
from edgeattn.graph.constants import Constants, drop_orphans, used_names
from edgeattn.graph.fusion.agree import (
    agree,
    is_padding_untold,
    is_table_untold,
    is_untold,
    settled,
)
from edgeattn.graph.fusion.found import (
    FoundAttention,
    Fusion,
    GlobalChoice,
    GlobalDecision,
    GraphType,
    UnrecognisedError,
)
from edgeattn.graph.fusion.match import AttentionNodes, Match, match_attention
from edgeattn.graph.fusion.moves import Moves
from edgeattn.graph.fusion.output import Readers
from edgeattn.graph.fusion.probe import Probe
from edgeattn.graph.fusion.rewrite import Rewrite
from edgeattn.graph.fusion.sizes import (
    MOST_SIZES,
    input_sizes,
    is_static,
    more_input_sizes,
    sample_sizes,
)
from edgeattn.graph.fusion.trial import compare
from edgeattn.graph.nodes import is_standard, node_label, standard_opset
from edgeattn.graph.op import OP_DOMAIN, OP_VERSION
from edgeattn.graph.parts import copy_without
from edgeattn.graph.passes.einsum_matmul import write_einsum_as_matmul
from edgeattn.graph.passes.raise_opset import raise_opset

# A dynamic graph need not be looked at in sizes at which an attention has more logits.
_MOST_LOGITS = 4_000_000
_CLOSED = "it is one Attention node of the ONNX standard; export with an opset below 23"
_LEAST_OPSET = 18  # attention nodes are decomposed into operators of it
_TYPES: dict[int, GraphType] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
}


def fuse_window_attention(
    model: onnx.ModelProto,
    *,
    global_attention: bool | GlobalChoice = False,
    in_place: bool = False,
) -> Fusion:
    """Find window attention and put attention nodes in its place.

    Args:
        model: Any graph; not changed, unless `in_place` allows it.
        global_attention: Whether to take attention of every token to every token too, as one
            window of the whole map; or what decides that for each of them.
        in_place: Whether `model` may become the new graph, which spares a copy of its weights.

    Returns:
        The new graph, and what became of each attention.
    """
    before = len(model.graph.node)
    given, model = model, write_einsum_as_matmul(model)
    written = _written(model)
    closed = tuple(
        FoundAttention(node_label(node), False, _CLOSED)
        for node in model.graph.node
        if is_standard(node, "Attention")
    )
    if not written:
        return Fusion(given, closed, before, before)
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
    result = fuser.finish(in_place=in_place or model is not given)
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
        self,
        model: onnx.ModelProto,
        probes: list[Probe],
        opset: int,
        *,
        global_attention: bool | GlobalChoice,
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
            rewrite = Rewrite(match, probes[0], self._new_name(name), self._opset)
            decision = self._decide(match, rewrite)
            if not decision.takes:
                return FoundAttention(
                    name, False, decision.reason, rewrite.spec, map_size=match.size
                )
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
        output = match.outputs[0].name
        self._rewrites[output] = rewrite
        return FoundAttention(
            *(name, True, decision.reason, rewrite.spec, match.tokens, output, match.size, error)
        )

    def _decide(self, match: Match, rewrite: Rewrite) -> GlobalDecision:
        """Ask whether to take an attention, where that is a question."""
        if isinstance(self._global, bool) or any(match.window_size):
            return GlobalDecision(True, "")
        element = self._probes[0].element(match.tokens)
        return self._global(rewrite.spec, self._token_size(match), _TYPES[element])

    def _token_size(self, match: Match) -> tuple[int, int, int] | None:
        """Tell batch, rows and columns of an attention's tokens in one sample; `None` if open."""
        looked_at, of_sample = (
            probe.shape(match.tokens) if probe is not None else None
            for probe in (self._probes[0], self._sample)
        )
        if looked_at is None or of_sample is None or looked_at[1:] != of_sample[1:]:
            return None  # the first axis of the inputs is not the batch
        batch = math.prod(of_sample[:-1]) // (math.prod(match.size) or 1)
        return (batch, *match.size)

    @cached_property
    def _sample(self) -> Probe | None:
        """The graph at one sample, if at most the batch is open and it can have one."""
        if is_static(self._model):
            return self._probes[0]
        shapes = sample_sizes(self._model)
        try:
            return None if shapes is None else Probe(self._model, shapes)
        except GraphError:
            return None

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
                another = self._match_at(written, probe)
                match = agree([match, another])
            except GraphError:  # the graph cannot have inputs of this size: no attention can
                self._more.remove(probe)
                continue
            matches.append(another)
            probes.append(probe)
        has_open_sides = sample_sizes(self._model) is None
        return settled(match, matches, has_open_sides=has_open_sides), probes

    def _match_at(self, written: AttentionNodes, probe: Probe) -> Match:
        return match_attention(
            written,
            probe,
            Moves(probe, self._opset),
            self._readers,
            self._opset,
            global_attention=self._global is not False,
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
        shifted, where an axis has several; what is added at each position, in a whole window.
        """
        shape = probe.shape(match.tokens)
        if shape is None or match.layout != "map" or 0 in match.window_size:
            return False
        axes = list(zip(shape[1:3], match.window_size, match.shift_size, strict=True))
        if math.prod(shape[:3]) * math.prod(match.window_size) * len(match.scale) > _MOST_LOGITS:
            return False
        return (
            (is_padding_untold(match) and any(length % window for length, window, _ in axes))
            or (is_table_untold(match) and all(length >= window for length, window, _ in axes))
            or any(shift is None and length > window for length, window, shift in axes)
        )

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

    def finish(self, *, in_place: bool) -> onnx.ModelProto:
        """Make a graph with the new nodes where the old ones made their results.

        What nobody reads any more is left out. The weights, most of a model, are copied once at
        most.
        """
        fixed = self._fixed_values() if is_static(self._model) else set()
        nodes: list[onnx.NodeProto] = []
        weights: list[onnx.TensorProto] = []
        for node in self._model.graph.node:
            rewrite = next((self._rewrites[o] for o in node.output if o in self._rewrites), None)
            if not fixed.isdisjoint(node.output):
                weights += (
                    numpy_helper.from_array(self._probes[0].value(name), name)
                    for name in filter(None, node.output)
                )
            elif rewrite is not None:
                nodes += rewrite.nodes
                weights += rewrite.weights
            else:
                nodes.append(node)
        result = self._model if in_place else copy_without(self._model, "node", "initializer")
        del result.graph.node[:]
        result.graph.node.extend(nodes)
        if all(entry.domain != OP_DOMAIN for entry in result.opset_import):
            result.opset_import.add(domain=OP_DOMAIN, version=OP_VERSION)
        drop_orphans(result, self._used)
        orphans = self._used - used_names(result.graph)
        if not in_place:
            weights = [*self._model.graph.initializer, *weights]
        result.graph.initializer.extend(each for each in weights if each.name not in orphans)
        return result
