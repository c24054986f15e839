"""The graph as TensorRT's network: parsed, and what the parser refuses listed node by node."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgeattn.engine.tensorrt.failures import build_error
from edgeattn.engine.tensorrt.imports import import_tensorrt
from edgeattn.engine.tensorrt.log import CapturedLog
from edgeattn.errors import BuildError

if TYPE_CHECKING:
    import tensorrt

_log = logging.getLogger(__name__)
_MOST_LISTED = 20


class ParsedNetwork(NamedTuple):
    """A network, and the parser that owns its weights: it must live as long as the network.

    Attributes:
        network: What was parsed.
        parser: What parsed it.
    """

    network: tensorrt.INetworkDefinition
    parser: tensorrt.OnnxParser

    def inputs(self) -> Iterator[tensorrt.ITensor]:
        """Go through the network's inputs."""
        for index in range(self.network.num_inputs):
            tensor = self.network.get_input(index)
            if tensor is None:
                raise BuildError(f"TensorRT does not give input {index} of its network out")
            yield tensor

    def plugin_libraries(self) -> list[str]:
        """List TensorRT's own libraries that a version-compatible engine of it needs."""
        try:
            return [str(path) for path in self.parser.get_used_vc_plugin_libraries()]
        except RuntimeError as err:  # as the bindings document it
            _log.warning(
                "TensorRT does not tell which of its libraries the engine needs: %s", str(err)
            )
            return []


def parse_network(
    builder: tensorrt.Builder,
    logger: tensorrt.ILogger,
    log: CapturedLog,
    graph: Path,
    *,
    strongly_typed: bool,
) -> ParsedNetwork:
    """Make a network of an ONNX file.

    Args:
        builder: Makes the network.
        logger: For the parser.
        log: What the logger writes to.
        graph: The lowered graph; its external weights are beside it.
        strongly_typed: Whether tensors have the types that the graph gives them.

    Raises:
        BuildError: If TensorRT makes no network, or its parser refuses nodes: they are listed.
    """
    trt = import_tensorrt()
    began = log.now()
    # 0 is the bit set of no flags; from 11.0 on networks are strongly typed whatever it says.
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if strongly_typed else 0
    network = builder.create_network(flags)
    if network is None:
        raise build_error("TensorRT made no network", log, since=began)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise _parser_error(parser, log, began)
    if not network.num_layers:
        raise build_error("TensorRT's parser read a network without layers", log, since=began)
    return ParsedNetwork(network, parser)


def _parser_error(parser: tensorrt.OnnxParser, log: CapturedLog, began: float) -> BuildError:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    listed = [_describe(error) for error in errors if error is not None]
    if not listed:
        return build_error("TensorRT's parser refused the graph", log, since=began)
    more = f" and {len(listed) - _MOST_LISTED} more" if len(listed) > _MOST_LISTED else ""
    nodes = "a node" if len(listed) == 1 else f"{len(listed)} nodes"
    what = f"TensorRT's parser refused {nodes}: {'; '.join(listed[:_MOST_LISTED])}{more}"
    return build_error(what, log, since=began)


def _describe(error: tensorrt.ParserError) -> str:
    """Put an error into words: the node, what is wrong, and where in the parser that was found."""
    name, operator = error.node_name(), error.node_operator()
    where = f"{name or f'number {error.node()}'}{f' ({operator})' if operator else ''}"
    if not name and error.node() < 0:
        where = "the graph itself"
    stack = [str(function) for function in error.local_function_stack()]
    within = f" in {' in '.join(reversed(stack))}" if stack else ""
    said = " ".join((error.desc() or "").split())
    # Not its attribute `name`: to 10.13 the bindings hide that of this enum behind a method.
    code = str(error.code()).rpartition(".")[2]
    return f"{where}{within}: {code}, {said}"
