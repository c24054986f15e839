"""Export: from a PyTorch model to an ONNX graph that holds the attention as one node each.

The way: resolve the model, trace it, name its nodes, simplify, compare with torch, write.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from edgeattn.artifacts import Manifest, Parent, check_writable, sha256_of_bytes, sha256_of_file
from edgeattn.errors import GraphError, ModelError, SpecError
from edgeattn.graph.clean import name_nodes_after_modules, strip_traces
from edgeattn.graph.files import save_graph
from edgeattn.graph.op import attention_nodes
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.simplify import simplify as simplify_graph
from edgeattn.graph.torch_export import onnx_from_torch
from edgeattn.graph.verify import relative_error, run_graph
from edgeattn.inputs import InputSpec
from edgeattn.models.registry import create_model, get_entry, load_weights, model_names

if TYPE_CHECKING:
    from torch import Tensor, nn

Progress = Callable[[int, "int | None", str], None]

# Beyond this the graph is not the model; rounding alone stays well below.
MAX_RELATIVE_ERROR = 1e-3


@dataclass(frozen=True)
class _Source:
    """A model with what is known of it."""

    model: nn.Module
    name: str
    inputs: tuple[InputSpec, ...]
    classes: tuple[str, ...] = ()
    weights: Path | None = None


def export(
    model: nn.Module | str,
    spec: InputSpec | Sequence[InputSpec] | None = None,
    output: Path | str | None = None,
    *,
    weights: Path | str | None = None,
    dynamic: bool = False,
    opset: int = 20,
    portable: bool = False,
    simplify: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Export a model to ONNX and verify the graph against it.

    Args:
        model: A module, the name of a model of the registry, or `module.path:callable` that
            returns a module.
        spec: The model's inputs; models of the registry bring theirs.
        output: File to write; `NAME.onnx` by default.
        weights: File to fill the model from: safetensors, or a `.pt` of tensors alone.
        dynamic: Leave batch and the map's or signal's size open: axis 0, and axes 2 and 3.
        opset: ONNX opset, 18 to 23.
        portable: Write attention in standard operators, which any ONNX runtime can run.
        simplify: Simplify the graph; the result is kept only if it is verified.
        progress: Called with steps done, steps in all, and the step at hand.

    Returns:
        The file written; its manifest is inside and beside it.

    Raises:
        ModelError: If the model is unknown, or its weights do not fit or are not finite.
        SpecError: If the inputs are not given or not static.
        GraphError: If the model cannot be traced, or the graph computes something else.
        ArtifactError: If a file cannot be read or written.
        MissingDependencyError: If torch or onnxscript is not installed.
    """
    report = progress or (lambda done, total, what: None)
    steps = ("load the model", "trace it", "simplify the graph", "verify it", "write it")
    report(0, len(steps), steps[0])
    source = _resolve(model, spec, weights)
    path = Path(output) if output else Path(f"{source.name}.onnx")
    check_writable(path)
    _check_finite(source.model)

    with _eval_mode(source.model):
        report(1, len(steps), steps[1])
        examples = _examples(source.inputs, batch=2 if dynamic else None)
        reference = _run_torch(source.model, examples)
        graph = onnx_from_torch(
            source.model,
            examples,
            input_names=[i.name for i in source.inputs],
            output_names=_output_names(len(reference)),
            dynamic_axes=[_dynamic_axes(i) if dynamic else {} for i in source.inputs],
            opset=opset,
        )
        name_nodes_after_modules(graph)
        strip_traces(graph)

        report(2, len(steps), steps[2])
        arrays = {i.name: e.numpy() for i, e in zip(source.inputs, examples, strict=True)}
        details: dict[str, Any] = {"nodes": len(graph.graph.node)}
        if simplify:
            outcome = simplify_graph(graph, arrays, reference)
            graph = outcome.model
            details["simplified"] = {
                "applied": outcome.applied,
                "reason": outcome.reason,
                "nodes_before": outcome.nodes_before,
                "nodes_after": outcome.nodes_after,
            }
        details["attention_nodes"] = len(attention_nodes(graph))
        if portable:
            graph = decompose(graph)

        report(3, len(steps), steps[3])
        details["max_relative_error"] = _verify(source, graph, examples, reference, dynamic)
    details |= {"nodes": len(graph.graph.node), "parameters": _count(source.model)}

    report(4, len(steps), steps[4])
    manifest = Manifest(
        kind="graph",
        parents=_parents(source),
        options={
            "model": source.name,
            "inputs": [asdict(i) for i in source.inputs],
            "classes": list(source.classes),
            "dynamic": dynamic,
            "opset": opset,
            "portable": portable,
        },
        report=details,
    )
    save_graph(graph, path, manifest)
    report(len(steps), len(steps), "done")
    return path


def _resolve(
    model: nn.Module | str,
    spec: InputSpec | Sequence[InputSpec] | None,
    weights: Path | str | None,
) -> _Source:
    inputs = (spec,) if isinstance(spec, InputSpec) else tuple(spec or ())
    if isinstance(model, str) and ":" not in model:
        entry = get_entry(model)
        module = create_model(model, weights=weights or "shipped")
        # Weights of the user's own may have other classes.
        classes = () if weights else entry.classes
        file = Path(weights) if weights else entry.weights
        return _Source(module, model, _with_preprocess(inputs, entry.input), classes, file)
    if not inputs:
        raise SpecError(
            "the model's inputs are not known", "give them: --input NAME:1x3x224x224, or spec="
        )
    module, name = (
        _call_factory(model) if isinstance(model, str) else (model, type(model).__name__.lower())
    )
    if weights:
        load_weights(module, weights)
    return _Source(module, name, inputs, weights=Path(weights) if weights else None)


def _with_preprocess(inputs: tuple[InputSpec, ...], default: InputSpec) -> tuple[InputSpec, ...]:
    """Give an input of the user's size the preprocessing of the registry's."""
    if not inputs:
        return (default,)
    return tuple(
        InputSpec(i.shape, i.name, i.dtype, i.preprocess or default.preprocess) for i in inputs
    )


def _call_factory(reference: str) -> tuple[nn.Module, str]:
    """Call `module.path:callable`, found as Python would from the working folder."""
    from torch import nn

    module_path, _, attribute = reference.partition(":")
    hint = f"give module.path:callable, or a model of the registry: {', '.join(model_names())}"
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_path), attribute)
    except (ImportError, AttributeError, ValueError) as err:
        raise ModelError(f"{reference} cannot be imported: {err}", hint) from err
    finally:
        sys.path.pop(0)
    model = factory() if callable(factory) else factory
    if not isinstance(model, nn.Module):
        raise ModelError(f"{reference} gave a {type(model).__name__}; expected a torch module")
    return model, attribute


def _check_finite(model: nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(
                f"the weight {name} holds NaN or infinity", "train or load the model again"
            )


def _weights_sha256(model: nn.Module) -> str:
    import torch

    names = "\n".join(f"{k} {tuple(v.shape)}" for k, v in model.state_dict().items())
    data = b"".join(
        v.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for v in model.state_dict().values()
    )
    return sha256_of_bytes(names.encode() + data)


def _parents(source: _Source) -> dict[str, Parent]:
    parents = {"model": Parent(source.name, _weights_sha256(source.model))}
    if source.weights:
        parents["weights"] = Parent(source.weights.name, sha256_of_file(source.weights))
    return parents


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _dynamic_axes(spec: InputSpec) -> dict[int, str]:
    """Name the axes left open: `[B, C, H, W]` and `[B, C, L]` as the field writes them."""
    spatial = {4: {2: "height", 3: "width"}, 3: {2: "length"}}
    return {0: "batch"} | spatial.get(len(spec.shape), {})


def _examples(specs: Sequence[InputSpec], batch: int | None = None, grow: int = 0) -> list[Tensor]:
    """Draw one seeded tensor per input.

    Args:
        specs: The inputs, of static shape.
        batch: Size of axis 0 in place of the spec's; tracing takes a size of 1 for a constant.
        grow: Added to each dynamic axis but the batch.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    examples = []
    for spec in specs:
        if not all(isinstance(dim, int) for dim in spec.shape):
            raise SpecError(
                f"input {spec.name} has the shape {spec.shape}; expected example sizes",
                "give numbers, and dynamic=True to leave axes open",
            )
        shape = [int(dim) for dim in spec.shape]
        if batch is not None:
            shape[0] = max(batch, shape[0])
        for axis in _dynamic_axes(spec):
            shape[axis] += grow if axis else 0
        dtype = getattr(torch, spec.dtype)
        if dtype.is_floating_point:
            examples.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            examples.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
    return examples


def _run_torch(model: nn.Module, examples: Sequence[Tensor]) -> list[np.ndarray]:
    import torch

    try:
        with torch.no_grad():
            outputs = model(*examples)
    except Exception as err:  # whatever the user's model raises
        shapes = ", ".join("x".join(map(str, e.shape)) for e in examples)
        raise ModelError(
            f"the model does not run on inputs of {shapes}: {str(err).splitlines()[0]}",
            "check --input",
        ) from err
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    if not isinstance(outputs, tuple | list) or not all(
        isinstance(o, torch.Tensor) for o in outputs
    ):
        raise ModelError(f"the model returns {type(outputs).__name__}; expected tensors")
    return [o.numpy() for o in outputs]


def _output_names(count: int) -> list[str]:
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def _verify(
    source: _Source,
    graph: onnx.ModelProto,
    examples: Sequence[Tensor],
    reference: Sequence[np.ndarray],
    dynamic: bool,
) -> float:
    """Compare graph and module, for a dynamic graph also at a size it was not traced at."""
    trials = [(examples, reference)]
    if dynamic:
        others = _examples(source.inputs, batch=3, grow=5)
        trials.append((others, _run_torch(source.model, others)))
    worst = 0.0
    for tensors, expected in trials:
        arrays = {i.name: t.numpy() for i, t in zip(source.inputs, tensors, strict=True)}
        worst = max(worst, relative_error(expected, run_graph(graph, arrays)))
    if not worst <= MAX_RELATIVE_ERROR:
        raise GraphError(
            f"the exported graph differs from the model by {worst:.1e} relative; "
            f"expected at most {MAX_RELATIVE_ERROR:.0e}",
            "report it with the model; --portable or --no-simplify may narrow it down",
        )
    return worst
