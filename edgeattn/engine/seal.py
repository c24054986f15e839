"""Sealed engines: where one was verified, and whether this is still that place.

An engine that was built from a bundle has passed its golden outputs on one machine. The seal in its
manifest says on which; the manifest's digest makes sure that nobody has changed a byte of it.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeattn.artifacts import Manifest
from edgeattn.engine.host import l4t_release
from edgeattn.errors import ArtifactError, StaleEngineError

SEAL = "seal"

_log = logging.getLogger(__name__)

# What has to be as it was, with its name for people. TensorRT, GPU and plugin are in the build's
# own report and compared with it.
_PLACE = {
    "machine": "on a processor of the kind",
    "l4t": "on L4T",
    "onnxruntime": "with ONNX Runtime",
}


def place_of(target: str) -> dict[str, str]:
    """Say what an engine depends on here besides what its build reports.

    Args:
        target: What runs it: `cpu` or `tensorrt`.
    """
    onnxruntime = importlib.metadata.version("onnxruntime") if target == "cpu" else ""
    return {"machine": platform.machine(), "l4t": l4t_release(), "onnxruntime": onnxruntime}


def bundle_of(manifest: Manifest) -> str:
    """Name the bundle that an engine was built from; empty if it is not sealed."""
    return manifest.parents["bundle"].file if "bundle" in manifest.parents else ""


def check_seal(path: Path, manifest: Manifest) -> None:
    """Refuse a sealed engine where it was not verified; any other engine passes.

    Where one of the two L4T releases is not known, which is so in most containers, a warning is
    logged instead.

    Raises:
        ArtifactError: If the seal is malformed.
        StaleEngineError: If machine, L4T or ONNX Runtime are not those of its verification.
    """
    if SEAL not in manifest.report:
        return
    seal: Any = manifest.report[SEAL]
    here = place_of(manifest.target)
    if not isinstance(seal, Mapping) or not seal.keys() >= here.keys():
        raise ArtifactError(f"the seal of {path} is malformed", rebuild_hint(path, manifest))
    for name, value in here.items():
        told = seal[name]
        if told == value:
            continue
        if name == "l4t" and not (told and value):  # a container rarely has the file that tells
            releases = [release or "of an unknown release" for release in (told, value)]
            _log.warning("%s was verified on L4T %s, and here it is %s", path, *releases)
            continue
        raise StaleEngineError(
            f"{path} was verified {_PLACE[name]} {told}, and here it is {value}",
            rebuild_hint(path, manifest),
        )


def rebuild_hint(path: Path, manifest: Manifest) -> str:
    """Say how a sealed engine is made anew."""
    bundle = bundle_of(manifest) or "BUNDLE"
    return f"build it again: edgeattn build {bundle} -o {path}; --rebuild-if-needed does so"
