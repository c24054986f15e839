"""Export: from a PyTorch model to an ONNX graph that holds the attention as one node each.

The way: resolve the model, trace it, name its nodes, simplify, compare with torch, write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from edgeattn.artifacts import Manifest, check_writable
from edgeattn.errors import ArtifactError, GraphError, SpecError, first_line
from edgeattn.graph.clean import name_nodes_after_modules, strip_traces
from edgeattn.graph.files import save_graph
from edgeattn.graph.op import attention_nodes
from edgeattn.graph.passes.decompose import decompose
from edgeattn.graph.simplify import simplify as simplify_graph
from edgeattn.graph.source import Source, resolve
from edgeattn.graph.torch_export import onnx_from_torch
from edgeattn.graph.trials import Trial, dynamic_axes, other_trials, run_at, traced_sizes
from edgeattn.graph.verify import relative_error, run_graph
from edgeattn.inputs import InputSpec

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[int, "int | None", str], None]

# Beyond this the graph is not the model; rounding alone stays well below.
MAX_RELATIVE_ERROR = 1e-3


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
    """Export a model to ONNX and compare the graph with it, a dynamic one at other sizes too.

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
        GraphError: If the model cannot be traced, an axis did not stay dynamic, or the graph
            computes something else.
        ArtifactError: If a file cannot be read or written.
        MissingDependencyError: If torch or onnxscript is not installed.
    """
    report = progress or (lambda done, total, what: None)
    steps = ("load the model", "trace it", "simplify the graph", "verify it", "write it")
    report(0, len(steps), steps[0])
    if output is not None:
        check_writable(Path(output))
    source = resolve(model, spec, weights)
    path = Path(output or f"{source.name}.onnx")
    _check_output(path, source)

    with _eval_mode(source.model):
        report(1, len(steps), steps[1])
        trial = run_at(source.model, source.inputs, traced_sizes(source.inputs) if dynamic else {})
        output_names = _output_names(source, len(trial.outputs))
        traced = onnx_from_torch(
            source.model,
            trial.tensors,
            input_names=[i.name for i in source.inputs],
            output_names=output_names,
            dynamic_axes=dynamic_axes(source.inputs) if dynamic else [{}] * len(source.inputs),
            opset=opset,
        )
        graph = traced.graph
        name_nodes_after_modules(graph)
        strip_traces(graph)

        report(2, len(steps), steps[2])
        details: dict[str, Any] = {"nodes": len(graph.graph.node)}
        if simplify:
            outcome = simplify_graph(graph, trial.arrays(source.inputs), trial.outputs)
            known = {node.name for node in graph.graph.node}
            graph = outcome.model
            name_nodes_after_modules(graph, keep=known)
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
        details["max_relative_error"] = _verify(source, graph, trial)
        if dynamic:
            details["verified_at"] = [trial.shapes]
            for other in other_trials(source.model, source.inputs, traced.limits):
                error = _verify(source, graph, other, trial.sizes)
                details["max_relative_error"] = max(error, details["max_relative_error"])
                details["verified_at"].append(other.shapes)
    details |= {"nodes": len(graph.graph.node), "parameters": source.count_parameters()}

    report(4, len(steps), steps[4])
    manifest = Manifest(
        kind="graph",
        parents=source.parents(),
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


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check_output(path: Path, source: Source) -> None:
    """Refuse early what cannot or should not be overwritten."""
    check_writable(path)
    if source.weights and path.exists() and path.samefile(source.weights):
        raise ArtifactError(
            f"the output {path} is the weights file of the model", "choose another output"
        )


def _output_names(source: Source, count: int) -> list[str]:
    names = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    taken = {*names, *source.model.state_dict()}
    for spec in source.inputs:
        if spec.name in taken:
            raise SpecError(
                f"an input has the name {spec.name}, which the graph gives to another tensor",
                "choose another name for the input",
            )
    return names


def _verify(
    source: Source, graph: onnx.ModelProto, trial: Trial, traced_at: Mapping[str, int] | None = None
) -> float:
    """Compare a graph with its model on the inputs of a trial.

    Args:
        source: The model.
        graph: What was made of it.
        trial: What the model gives for some inputs.
        traced_at: Sizes of the dynamic axes that the graph was traced at, if the trial's differ.

    Raises:
        GraphError: If the graph does not run, or gives something else.
    """
    where = f"on inputs of {trial.shapes}"
    hint = "report it with the model; --portable or --no-simplify may narrow it down"
    if traced_at is not None:
        other = [f"{n} {s}" for n, s in trial.sizes.items() if s != traced_at[n]]
        traced = [f"{n} {s}" for n, s in traced_at.items() if s != trial.sizes[n]]
        where = f"at {', '.join(other)} (it was traced at {', '.join(traced)})"
        hint = "export it static, or avoid Python conditions on sizes in forward()"
    try:
        outputs = run_graph(graph, trial.arrays(source.inputs))
    except Exception as err:  # ONNX Runtime's errors share no class
        raise GraphError(
            f"the exported graph does not run {where}: {first_line(err)}", hint
        ) from err
    error = relative_error(trial.outputs, outputs)
    if not error <= MAX_RELATIVE_ERROR:
        raise GraphError(
            f"the exported graph differs from the model {where} by {error:.1e} relative; "
            f"expected at most {MAX_RELATIVE_ERROR:.0e}",
            hint,
        )
    return error
