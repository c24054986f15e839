"""`load`: an engine, a graph or a bundle, ready to run; a stale engine is built again if asked."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn.artifacts import read_manifest, sha256_of_bytes, sha256_of_file
from edgeattn.bundle.install import build_from_bundle, extract_graph
from edgeattn.bundle.read import Bundle, is_bundle
from edgeattn.engine import load as engine_load
from edgeattn.engine.base import Engine
from edgeattn.errors import ArtifactError, EngineError, StaleEngineError
from edgeattn.plugin.cache import cache_folder, locked

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions

_log = logging.getLogger(__name__)


def load(
    path: Path | str,
    *,
    threads: int | None = None,
    tensorrt: TensorRtRunOptions | None = None,
    rebuild_if_needed: bool = False,
    bundle: Path | str | None = None,
    public_key: Path | None = None,
) -> Engine:
    """Load an engine file, an ONNX graph or a bundle.

    A graph runs on the CPU, and so does a bundle: the engine of its board is what `edgeattn build`
    makes of it there. See `edgeattn.engine.load` for engines.

    Args:
        path: `NAME.engine` with its manifest beside it, a `.onnx` file or a bundle.
        threads: Threads of the CPU engine; by default as built, else all physical cores.
        tensorrt: How to run a TensorRT engine.
        rebuild_if_needed: Build a sealed engine again, from its bundle, where TensorRT, GPU, L4T or
            plugin are no longer those that it was verified with.
        bundle: That bundle; by default the very one that the engine was built from, beside it.
        public_key: PEM file of the key that a bundle has to be signed with.

    Returns:
        The engine; close it, or use it in a `with` block.

    Raises:
        ArtifactError: If a file is missing, truncated, replaced or no engine, or a bundle is not
            whole or not signed as asked.
        BuildError: If an engine cannot be built again.
        EngineError: If the engine is of an unknown kind, its graph is refused, or an option is of
            the other kind of engine.
        GraphError: If an ONNX file is no whole graph, or a weight is NaN or infinite.
        MissingDependencyError: If TensorRT, pycuda or cryptography is needed and not installed.
        PluginError: If a plugin library is needed and cannot be loaded or built, or the cache
            folder is not writable.
        StaleEngineError: If the engine was built for, or sealed on, another machine or software.
    """
    path = Path(path)
    if is_bundle(path):
        if tensorrt is not None:
            raise EngineError(
                f"options of TensorRT were given, and the bundle {path} runs on the CPU as it is",
                f"build its engine first: edgeattn build {path}",
            )
        with (
            Bundle.open(path, public_key) as opened,
            tempfile.TemporaryDirectory(prefix="edgeattn-") as folder,
        ):
            return engine_load.load(extract_graph(opened, Path(folder)), threads=threads)
    if public_key is not None and not rebuild_if_needed:
        raise EngineError(
            f"a public key was given, and {path} is no bundle: only bundles are signed",
            "leave the key out",
        )
    try:
        return engine_load.load(path, threads=threads, tensorrt=tensorrt)
    except StaleEngineError as err:
        if not rebuild_if_needed:
            raise
        _log.warning("%s: it is built again", err.message)
    name = sha256_of_bytes(str(path.absolute()).encode())
    with locked(cache_folder() / "engines" / f"{name[:16]}.lock"):
        try:
            return engine_load.load(path, threads=threads, tensorrt=tensorrt)
        except StaleEngineError:  # no other process has built it meanwhile
            rebuild(path, bundle, public_key=public_key)
        return engine_load.load(path, threads=threads, tensorrt=tensorrt)


def engine_target(path: Path) -> str:
    """Tell what a file runs on: `cpu` for a graph or a bundle, which are lowered for it.

    Raises:
        ArtifactError: If it is missing or no engine.
    """
    return "cpu" if is_bundle(path) else engine_load.engine_target(path)


def rebuild(
    engine: Path, bundle: Path | str | None = None, *, public_key: Path | None = None
) -> None:
    """Build a sealed engine again, from the bundle that it was built from, in its place.

    Args:
        engine: The engine.
        bundle: The bundle; by default the very one, beside the engine.
        public_key: PEM file of the key that it has to be signed with.

    Raises:
        ArtifactError: If the engine is not sealed, or the bundle is missing or another one.
        EdgeAttnError: As `build_from_bundle`.
    """
    manifest = read_manifest(engine, verify=False)
    parent = manifest.parents.get("bundle")
    if parent is None and bundle is None:
        raise ArtifactError(
            f"{engine} was not built from a bundle, so it cannot be built again from one",
            "name a bundle with --bundle, or build it again from its graph",
        )
    if parent is None or bundle is not None:
        found = Path(str(bundle))
    else:
        found = engine.absolute().parent / Path(parent.file).name
        if not found.is_file():
            raise ArtifactError(
                f"{engine} is to be built again, and its bundle {parent.file} is not beside it",
                "put it there, or name it with --bundle",
            )
        if sha256_of_file(found) != parent.sha256:
            raise ArtifactError(
                f"{found} is not the bundle that {engine} was built from: their hashes differ",
                "name it with --bundle if it is the one to use",
            )
    build_from_bundle(found, engine, engine=manifest.target, public_key=public_key)
