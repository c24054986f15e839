"""What was asked of a TensorRT engine's build, read off its manifest to be asked once more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgeattn.artifacts import Manifest, sha256_of_file
from edgeattn.engine.tensorrt.gpu import identify_gpu
from edgeattn.engine.tensorrt.options import ImplicitInt8, ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.engine.tensorrt.versions import TensorRtVersion, installed_version
from edgeattn.errors import ArtifactError, BuildError, EngineError, SpecError


def request_again(plan: Path, manifest: Manifest, *, plugin: Path | None = None) -> TensorRtRequest:
    """Ask for an engine that was built here once more, with the timing of every kernel taken anew.

    The timings of earlier builds would choose the same kernels again. Of an engine whose attention
    was autotuned, the way that won is built.

    Args:
        plan: The engine.
        manifest: Its manifest.
        plugin: The plugin library, if it is not where it was.

    Raises:
        ArtifactError: If the manifest is malformed.
        BuildError: If something that the build took is not here.
        EngineError: If it was built with another TensorRT, or on another GPU.
        MissingDependencyError: If TensorRT or pycuda cannot be imported.
    """
    try:
        built = dict(manifest.options["tensorrt"])
        _require_same_machine(plan, manifest.report, built.get("device", 0))
        if manifest.options["are_shapes_exported"]:
            built["profiles"] = []  # they are taken from the graph once more
        options = _options(plan, built, _plugin(plan, manifest, plugin))
        return TensorRtRequest(
            options,
            attention=manifest.report["attention_way"],
            require_precision=manifest.options["require_precision"],
            target=manifest.options.get("target"),
        )
    except (KeyError, TypeError, AttributeError, SpecError) as err:
        raise ArtifactError(
            f"the manifest of {plan} does not say how the engine was built: {err!r}",
            "build the engine again",
        ) from err


def _require_same_machine(plan: Path, report: Mapping[str, Any], device: int) -> None:
    """Refuse a machine on which another engine would come out."""
    there, here = TensorRtVersion.parse(report["tensorrt"]), installed_version()
    hint = "repeat builds where the engine was built, or build it here and repeat that"
    if (there.major, there.minor, there.patch) != (here.major, here.minor, here.patch):
        raise EngineError(
            f"{plan} was built with TensorRT {there}, and {here} is installed here", hint
        )
    gpu = asdict(identify_gpu(device))
    for what in ("name", "architecture"):
        if gpu[what] != report["gpu"][what]:
            raise EngineError(
                f"{plan} was built on {report['gpu']['name']} "
                f"(sm_{report['gpu']['architecture']}), and this GPU is {gpu['name']} "
                f"(sm_{gpu['architecture']})",
                hint,
            )


def _plugin(plan: Path, manifest: Manifest, given: Path | None) -> Path | None:
    """Find the plugin library of the build; `None` if it took none."""
    kept = manifest.report["plugin"]
    if not kept:
        return None
    path = Path(kept[0]["file"]) if given is None else given
    if not path.is_file():
        raise BuildError(
            f"{plan} was built with the plugin library {path}, which is not there",
            "name it with --plugin",
        )
    if sha256_of_file(path) != kept[0]["sha256"]:
        raise BuildError(
            f"the plugin library {path} is not the one that {plan} was built with: their hashes "
            "differ",
            "name that one with --plugin, or build the engine again with this one",
        )
    return path


def _options(plan: Path, values: Mapping[str, Any], plugin: Path | None) -> TensorRtOptions:
    """Read options back from the JSON values that `TensorRtOptions.to_dict` gives."""
    tactics, implicit = values["tactic_sources"], values["implicit_int8"]
    changes = {
        "profiles": tuple(map(_profile, values["profiles"])),
        "tactic_sources": None if tactics is None else tuple(tactics),
        "implicit_int8": None if implicit is None else _implicit_int8(plan, implicit),
        "plugin": plugin,
        "timing_cache": None,
        "no_timing_cache": True,
    }
    return TensorRtOptions(**{**values, **changes})


def _profile(values: Mapping[str, Mapping[str, list[int]]]) -> ShapeProfile:
    kinds = {
        kind: {name: tuple(shape) for name, shape in values[kind].items()}
        for kind in ("min", "opt", "max")
    }
    return ShapeProfile(**kinds)


def _implicit_int8(plan: Path, values: Mapping[str, Any]) -> ImplicitInt8:
    data, cache = Path(values["data"]), values["cache"]
    if not data.exists():
        raise BuildError(
            f"{plan} was calibrated with {data}, which is not there",
            "put the data back; data of a Python program cannot be had again",
        )
    paths = {"data": data, "cache": None if cache is None else Path(cache)}
    return ImplicitInt8(**{**values, **paths})
