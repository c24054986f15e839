"""Write a bundle: collect the files, compute the golden tensors, list everything, sign."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from edgeattn.arrays import write_arrays
from edgeattn.artifacts import (
    Manifest,
    Parent,
    atomic_path,
    check_writable,
    json_bytes,
    sha256_of_file,
)
from edgeattn.bundle.archive import write_archive
from edgeattn.bundle.contents import Contents
from edgeattn.bundle.format import (
    GOLDEN_INPUTS,
    GOLDEN_OUTPUTS,
    GRAPH,
    MANIFEST,
    PLUGIN_LIBRARY,
    PLUGIN_SOURCE,
    PORTABLE,
    PREPROCESS,
    SIGNATURE,
    TABLE,
    BundleManifest,
    check_bundle_name,
    check_entries,
)
from edgeattn.bundle.golden import Golden, make_golden, run_golden
from edgeattn.bundle.plugins import describe_library, plugin_source_files
from edgeattn.bundle.read import Bundle
from edgeattn.bundle.recipe import Recipe
from edgeattn.bundle.sign import fingerprint, read_private_key
from edgeattn.engine.load import load
from edgeattn.engine.reference import Arrays, Distance, distance
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.errors import ArtifactError, DataError, TableError
from edgeattn.graph.files import (
    embedded_manifest,
    graph_sha256,
    input_specs,
    load_graph,
    save_graph,
)
from edgeattn.graph.op import attention_nodes
from edgeattn.graph.passes.decompose import decompose

Progress = Callable[[int, "int | None", str], None]
PluginChoice = Literal["auto", "source", "none"]
_STEPS = 3


def write_bundle(
    graph: Path | str,
    output: Path | str | None = None,
    *,
    table: Path | str | None = None,
    precision: str | None = None,
    portable: Path | str | None = None,
    engine: str = "auto",
    targets: Sequence[str] = (),
    tensorrt: TensorRtRequest | None = None,
    plugin: PluginChoice = "auto",
    libraries: Sequence[Path] = (),
    labels: Path | str | None = None,
    golden_inputs: Arrays | None = None,
    seed: int = 0,
    key: Path | None = None,
    name: str | None = None,
    progress: Progress | None = None,
) -> BundleManifest:
    """Put everything that a board needs into one file.

    The same files, options and tools give the same bytes on one machine; on another processor
    golden outputs may differ in their last digits.

    Args:
        graph: The ONNX file that the board builds.
        output: Bundle to write; the graph's name with `.zip` if not given.
        table: Calibration table: that of the `precision`, or the one that the graph was made with.
        precision: Precision to write into the graph on the way, as `edgeattn.quantize` takes it.
        portable: Graph in float for any ONNX runtime; by default what `precision` is applied to,
            or the graph itself in standard operators, if it is not that already.
        engine: What the board shall build: `cpu`, `tensorrt`, or `auto` for what it has.
        targets: Names of the boards that it is for; none for any.
        tensorrt: What is asked of a TensorRT build.
        plugin: Whether the plugin's source travels along: `auto` if the graph needs it.
        libraries: Plugin libraries that were built for the boards.
        labels: Text file with the name of each class on a line.
        golden_inputs: Real samples by input name, at least two; random ones if not given.
        seed: Of the random samples.
        key: Private Ed25519 key in PEM form to sign with.
        name: What to call it; the graph's name if not given.
        progress: Called with steps done, steps in all, and the step at hand.

    Raises:
        ArtifactError: If a file is missing or of no use, or the bundle cannot be written.
        BuildError: If an option belongs to one machine, or does not exist.
        DataError: If golden inputs or labels do not fit the graph.
        EngineError: If the CPU cannot run the graph.
        GraphError: If a graph is malformed.
        MissingDependencyError: If a key is given without cryptography, or libraries without
            pyelftools.
        PluginError: If a library is no plugin, or for none of the targets.
        TableError: If the table belongs to another graph.
        TargetError: If a target is unknown.
    """
    graph = Path(graph)
    output = graph.with_suffix(".zip") if output is None else Path(output)
    name = _default_name(graph) if name is None else name
    check_bundle_name(name)
    check_writable(output)
    if output.exists() and graph.exists() and output.samefile(graph):
        raise ArtifactError(f"the output {output} is the graph to pack", "choose another")
    private_key = None if key is None else read_private_key(key)
    recipe = Recipe(
        engine,
        tuple(targets),
        tensorrt or TensorRtRequest(),
        tuple(describe_library(Path(library), targets) for library in libraries),
    )
    step = _Steps(progress)
    with tempfile.TemporaryDirectory(prefix=".edgeattn-", dir=output.absolute().parent) as folder:
        step("read the graph")
        sources = _read_sources(graph, table, precision, portable, Path(folder))
        contents = Contents()
        contents.add_graph("graph", GRAPH, sources.typed)
        if sources.standard is not None:
            contents.add_graph("portable", PORTABLE, sources.standard)
        if sources.table is not None:
            contents.add("calib.json", TABLE, sources.table)
        inputs = [asdict(spec) for spec in input_specs(sources.model)]
        contents.add("preprocess.json", PREPROCESS, json_bytes({"inputs": inputs}))
        step("golden tensors")
        golden = _golden(sources.typed, recipe, golden_inputs, seed)
        report = _report(golden, sources.standard if sources.is_compared else None)
        if labels is not None:
            contents.add_labels(Path(labels), golden)
        for role, arrays in ((GOLDEN_INPUTS, golden.inputs), (GOLDEN_OUTPUTS, golden.outputs)):
            file = Path(folder) / f"{role}.npz"
            write_arrays(file, arrays)
            contents.add(f"golden/{role.removeprefix('golden-')}.npz", role, file)
        is_needed = recipe.uses_plugin and engine != "cpu" and bool(attention_nodes(sources.model))
        if plugin == "source" or (plugin == "auto" and is_needed and not libraries):
            for entry, path in plugin_source_files():
                contents.add(f"plugin/source/{entry}", PLUGIN_SOURCE, path)
        for library, path in zip(recipe.libraries, libraries, strict=True):
            contents.add(library.name, PLUGIN_LIBRARY, Path(path))
        options = {
            "precision": precision,
            "golden": f"random, seed {seed}" if golden_inputs is None else "given",
            "key": fingerprint(private_key.public_key()) if private_key else None,
        }
        manifest = BundleManifest(
            name,
            tuple(contents.entries),
            recipe.to_dict(),
            golden.tolerances,
            Manifest("bundle", sources.parents, ", ".join(targets), options, report),
        )
        check_entries(manifest.entries)
        step("write")
        data = manifest.to_bytes()
        head: list[tuple[str, bytes | Path]] = [(MANIFEST, data)]
        if private_key is not None:
            head.append((SIGNATURE, private_key.sign(data)))
        with atomic_path(output) as temporary:
            write_archive(temporary, [*head, *contents.files])
            Bundle.open(temporary).close()  # what cannot be opened is never put in place
        step("written")
    return manifest


def _default_name(graph: Path) -> str:
    """Call a bundle as its graph: `my net.int8.onnx` → `my-net`."""
    return re.sub(r"[^A-Za-z0-9_+-]+", "-", graph.name.partition(".")[0]).strip("+-") or "graph"


@dataclass(frozen=True)
class _Sources:
    """What a bundle is made from.

    Attributes:
        typed: The graph that the board builds.
        model: It, read.
        standard: The same, or the graph that it was quantized from, in standard operators; `None`
            if the typed one is that already.
        is_compared: Whether the standard one is another graph, to be compared with.
        table: The calibration table.
        parents: The files given, by role.
    """

    typed: Path
    model: onnx.ModelProto
    standard: Path | None
    is_compared: bool
    table: Path | None
    parents: dict[str, Parent]


def _read_sources(
    graph: Path,
    table: Path | str | None,
    precision: str | None,
    portable: Path | str | None,
    folder: Path,
) -> _Sources:
    """Quantize the graph if that is asked for, and write it in standard operators."""
    typed, float_graph = graph, None if portable is None else Path(portable)
    if precision is not None:
        from edgeattn.calibration.quantize import quantize

        typed = folder / graph.name
        quantize(graph, typed, table=table, precision=precision)
        float_graph = float_graph or graph
    model = load_graph(typed)
    parents = {"graph": Parent(graph.name, graph_sha256(graph))}
    if float_graph is not None and float_graph != graph:
        parents["portable"] = Parent(float_graph.name, graph_sha256(float_graph))
    if table is not None:
        table = Path(table)
        _check_table(table, model, typed)
        parents["table"] = Parent(table.name, sha256_of_file(table))
    standard = _write_portable(model, typed, float_graph, folder)
    return _Sources(typed, model, standard, float_graph is not None, table, parents)


def _golden(typed: Path, recipe: Recipe, inputs: Arrays | None, seed: int) -> Golden:
    """Compute golden tensors, of the shapes that the engine is tuned for."""
    options = recipe.tensorrt.options
    shapes = [options.profiles[0].opt] if options.profiles else ()
    return make_golden(typed, inputs, shapes=shapes, seed=seed, tf32=options.tf32)


class _Steps:
    """Counts steps for a progress callback."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._done = progress, 0

    def __call__(self, what: str) -> None:
        if self._progress is not None:
            self._progress(self._done, _STEPS, what)
        self._done += 1


def _write_portable(
    model: onnx.ModelProto, typed: Path, float_graph: Path | None, folder: Path
) -> Path | None:
    """Write the graph in standard operators; `None` if the typed one is that already."""
    source = model if float_graph is None else load_graph(float_graph)
    if not attention_nodes(source):
        return float_graph
    path = typed if float_graph is None else float_graph
    found = embedded_manifest(source, str(path))
    manifest = Manifest(
        "graph",
        {"graph": Parent(path.name, graph_sha256(path))},
        options=(found.options if found else {}) | {"portable": True},
    )
    (folder / "portable").mkdir()
    return save_graph(decompose(source), folder / "portable" / "portable.onnx", manifest)


def _check_table(table: Path, model: onnx.ModelProto, typed: Path) -> None:
    """Refuse a table that is not the one that a graph was quantized with.

    Raises:
        TableError: In one sentence.
    """
    found = embedded_manifest(model, str(typed))
    parent = found.parents.get("table") if found else None
    if parent is None:
        raise TableError(
            f"{typed.name} was not quantized with a table, and {table} was given",
            "give --precision int8 to quantize it with the table, or leave the table out",
        )
    if parent.sha256 != sha256_of_file(table):
        raise TableError(
            f"{typed.name} was quantized with another table than {table}: their hashes differ",
            f"give {parent.file} of that time, or quantize the graph again",
        )


def _report(golden: Golden, portable: Path | None) -> dict[str, Any]:
    """Say how many samples are golden, and how far the graph is from the portable one.

    Raises:
        ArtifactError: If the two are not the same model: other inputs or outputs.
    """
    samples = len(next(iter(golden.inputs.values()), np.zeros(0)))
    if portable is None:
        return {"golden_samples": samples}
    try:
        with load(portable) as engine:
            found = run_golden(engine, golden)
    except DataError as err:
        raise ArtifactError(
            f"the portable graph is not that of the model: {err.message}", "give its own"
        ) from err
    shapes = {name: array.shape for name, array in golden.outputs.items()}
    others = {name: array.shape for name, array in found.items()}
    if shapes != others:
        raise ArtifactError(
            f"the portable graph is not that of the model: it yields {_spelled(others)}; expected "
            f"{_spelled(shapes)}",
            "give its own",
        )
    apart = {name: distance(found[name], array) for name, array in golden.outputs.items()}
    return {
        "golden_samples": samples,
        "off_the_portable_graph": {name: _rounded(each) for name, each in apart.items()},
    }


def _rounded(off: Distance) -> dict[str, float]:
    return {name: float(f"{value:.3g}") for name, value in off._asdict().items()}


def _spelled(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())
