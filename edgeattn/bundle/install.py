"""Build the engine that a bundle is for, on the machine that runs it; verify it; seal it.

    open → extract → plugin → build → golden outputs → seal → put in place

Everything happens in a folder beside the output. The engine, its plugin library and its manifest
get their places together when the golden outputs are right, and nothing does before.
"""

from __future__ import annotations

import logging
import platform
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeattn.arrays import read_arrays
from edgeattn.artifacts import (
    Parent,
    atomic_artifact,
    check_writable,
    manifest_path,
    read_manifest,
)
from edgeattn.bundle.format import GOLDEN_INPUTS, GOLDEN_OUTPUTS, GRAPH, WEIGHTS
from edgeattn.bundle.golden import Golden, GoldenCheck, check_golden
from edgeattn.bundle.plugins import plugin_from_bundle
from edgeattn.bundle.read import Bundle
from edgeattn.bundle.recipe import Recipe
from edgeattn.engine.build import build, choose_engine
from edgeattn.engine.load import load
from edgeattn.engine.seal import SEAL, place_of
from edgeattn.engine.tensorrt.plan import log_path
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.engine.tensorrt.versions import installed_version
from edgeattn.errors import ArtifactError, BuildError, EdgeAttnError, TargetError
from edgeattn.graph.files import load_graph
from edgeattn.graph.op import attention_nodes
from edgeattn.plugin.driver import local_architectures
from edgeattn.targets import get_target

Progress = Callable[[int, "int | None", str], None]

_log = logging.getLogger(__name__)


def build_from_bundle(
    bundle: Path | str,
    output: Path | str | None = None,
    *,
    engine: str | None = None,
    verify: bool = False,
    public_key: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Build a bundle's engine for this machine, check it against the golden outputs, and seal it.

    Args:
        bundle: The bundle.
        output: Engine file to write; the bundle's name with `.engine`, beside it, if not given. Its
            manifest goes beside it, and so does the plugin library that the bundle brought.
        engine: `cpu`, `tensorrt` or `auto`; by default what the bundle says.
        verify: Check the engine against the graph and against itself too, see
            `edgeattn.engine.verify`.
        public_key: PEM file of the key that the bundle has to be signed with.
        progress: Called with steps done, steps in all, and the step at hand.

    Returns:
        The engine file.

    Raises:
        ArtifactError: If the bundle is not whole, not signed as asked, or the output cannot be
            written.
        BuildError: If TensorRT cannot build the graph as asked, or the engine misses a golden
            output or fails a check.
        DataError: If the engine does not take the golden inputs.
        EngineError: If the engine fails.
        GraphError: If the graph is malformed.
        MissingDependencyError: If the engine asked for is not installed.
        PluginError: If the bundle's plugin neither runs nor can be built here.
        TargetError: If the bundle is for other boards.
    """
    bundle = Path(bundle)
    output = bundle.with_suffix(".engine") if output is None else Path(output)
    check_writable(output)
    check_writable(manifest_path(output))
    if output.exists() and bundle.exists() and output.samefile(bundle):
        raise ArtifactError(f"the output {output} is the bundle to build from", "choose another")
    with (
        Bundle.open(bundle, public_key) as opened,
        tempfile.TemporaryDirectory(prefix=".edgeattn-", dir=output.absolute().parent) as name,
    ):
        recipe = Recipe.from_dict(opened.manifest.build, str(bundle))
        folder = Path(name)
        graph = extract_graph(opened, folder)
        kind, choice = choose_engine(engine or recipe.engine)
        if choice:
            _log.warning("%s is built for the %s", bundle, choice)
        options: dict[str, Any] = {}
        library = None
        if kind == "tensorrt":
            _check_target(opened, recipe.targets)
            library = _plugin(opened, recipe, graph, folder, output)
            options["tensorrt"] = _request(recipe, library)
        unsealed = folder / "engine" / output.name
        unsealed.parent.mkdir()
        try:
            # As it was packed: what it needs, the plugin too, came along for that graph.
            build(
                graph,
                unsealed,
                engine=kind,
                fuse=False,
                verify=verify,
                progress=progress,
                **options,
            )
        except EdgeAttnError as err:
            raise _with_log(err, log_path(unsealed), log_path(output)) from err
        if progress is not None:
            progress(0, None, "golden outputs")
        checks = _check(unsealed, opened, folder)
        report = {"engine_choice": choice} if choice else {}
        _put_in_place(unsealed, library, output, opened, report | _seal(kind, opened, checks))
    return output


def extract_graph(bundle: Bundle, folder: Path) -> Path:
    """Write the graph that is built, with its weights, to a folder; returns the ONNX file.

    Raises:
        ArtifactError: If the bundle has changed, or the folder cannot be written.
    """
    (entry,) = bundle.manifest.of_role(GRAPH)
    for weights in bundle.manifest.of_role(WEIGHTS):
        if Path(weights.name).is_relative_to(Path(entry.name).parent):
            bundle.extract(weights.name, folder)
    return bundle.extract(entry.name, folder)


def _check_target(bundle: Bundle, targets: Sequence[str]) -> None:
    """Refuse to build for TensorRT on a machine that the bundle is not for."""
    devices = set(local_architectures())
    boards = [get_target(name) for name in targets]
    if boards and not any(
        board.machine == platform.machine() and devices & set(board.architectures)
        for board in boards
    ):
        here = ", ".join(f"sm_{number}" for number in sorted(devices)) or "without a GPU"
        raise TargetError(
            f"{bundle.path} is for {', '.join(targets)}; this machine is {platform.machine()}, "
            f"{here}",
            "make the bundle for it, without --target for any, or build with --engine cpu",
        )


def _plugin(bundle: Bundle, recipe: Recipe, graph: Path, folder: Path, output: Path) -> Path | None:
    """Get the plugin library, under the name that it will have beside the engine."""
    if not recipe.uses_plugin or not attention_nodes(load_graph(graph)):
        return None
    found = plugin_from_bundle(bundle, recipe.libraries, installed_version().major, folder)
    if found is None:
        return None
    named = folder / f"{output.stem}.plugin.so"
    shutil.copyfile(found, named)
    return named


def _request(recipe: Recipe, library: Path | None) -> TensorRtRequest:
    request = recipe.tensorrt
    return replace(request, options=replace(request.options, plugin=library))


def _with_log(err: EdgeAttnError, unsealed: Path, kept: Path) -> EdgeAttnError:
    """Keep what TensorRT said before a build failed: the folder that it was built in goes."""
    if not unsealed.is_file():
        return err
    shutil.move(unsealed, kept)
    return type(err)(err.message, err.hint.replace(str(unsealed), str(kept)))


def _check(engine: Path, bundle: Bundle, folder: Path) -> list[GoldenCheck]:
    """Run the golden inputs; refuse an engine that misses an output.

    Raises:
        BuildError: If one is missed.
    """
    files = [
        bundle.extract(bundle.manifest.of_role(role)[0].name, folder)
        for role in (GOLDEN_INPUTS, GOLDEN_OUTPUTS)
    ]
    inputs, outputs = map(read_arrays, files)
    golden = Golden(inputs, outputs, bundle.manifest.tolerances)
    with load(engine) as opened:
        checks = check_golden(opened, golden)
    failures = [f"{each.output} is {each.detail}" for each in checks if each.verdict == "failed"]
    if failures:
        raise BuildError(
            f"the engine misses the golden outputs of {bundle.path}: {'; '.join(failures)}",
            "it was not put in place; `edgeattn build --verify` on the graph tells more",
        )
    return checks


def _seal(kind: str, bundle: Bundle, checks: Sequence[GoldenCheck]) -> dict[str, Any]:
    """Say where the engine was verified, with what, and what that showed."""
    golden = [check.to_dict() for check in checks]
    return {SEAL: place_of(kind) | {"signed_by": bundle.signed_by, "golden": golden}}


def _put_in_place(
    unsealed: Path, library: Path | None, output: Path, bundle: Bundle, report: dict[str, Any]
) -> None:
    """Seal the engine, and give it and all that belongs to it their places together."""
    manifest = read_manifest(unsealed)
    if library is not None:  # it was loaded from where it soon is no more
        kept = str(output.absolute().with_name(library.name))
        used = [entry | {"file": kept} for entry in manifest.report["plugin"]]
        report = report | {"plugin": used}
    manifest = replace(
        manifest,
        parents=manifest.parents | {"bundle": Parent(bundle.path.name, bundle.sha256)},
        report=manifest.report | report,
    )
    beside = {name: unsealed.with_name(name) for name in manifest.files if name != output.name}
    if library is not None:
        beside[library.name] = library
    with atomic_artifact(output, manifest, *beside, sealed=True) as (plan, *others):
        unsealed.replace(plan)
        for place, file in zip(others, beside.values(), strict=True):
            file.replace(place)
    if log_path(unsealed).is_file():
        shutil.move(log_path(unsealed), log_path(output))
