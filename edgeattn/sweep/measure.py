"""One case on the machine that it is about: built, held against FP32, and timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import edgeattn
from edgeattn.arrays import read_arrays
from edgeattn.artifacts import read_manifest
from edgeattn.engine.batches import BATCH_SIZE
from edgeattn.sweep.cases import Case
from edgeattn.sweep.figures import conditions, figures
from edgeattn.sweep.prepare import case_shapes
from edgeattn.sweep.spec import BUILD_OPTIONS, TENSORRT_BUILDER_OPTIONS

Step = Callable[[str], None]


def measure_case(
    case: Case, graphs: Mapping[str, str], engine: Path, report: Path, step: Step
) -> dict[str, Any]:
    """Build the engine of a case and measure it.

    Args:
        case: The case.
        graphs: As `prepare` gives them; `accuracy`, if the case has it, is the file of samples.
        engine: Engine to write.
        report: Report to write.
        step: Called with the name of each step before it begins.

    Returns:
        What the row of the case has besides the case itself: `figures`, what it was made from and
        what it was measured under.

    Raises:
        EdgeAttnError: As build, compare and profile do.
    """
    asked = case.parameters
    graph, reference = Path(graphs["graph"]), Path(graphs["reference"])
    shapes, is_open = case_shapes(case, graph)
    for file in (engine, report):
        file.parent.mkdir(parents=True, exist_ok=True)

    step("build")
    edgeattn.build(graph, engine, **_build_options(asked, shapes if is_open else {}))
    manifest = read_manifest(engine, verify=False)

    step("compare")
    samples = read_arrays(Path(graphs["accuracy"])) if "accuracy" in graphs else None
    batch_size = next(iter(shapes.values()))[0] if is_open else BATCH_SIZE
    comparison = edgeattn.compare(
        reference, engine, samples, latency=False, batch_size=batch_size, shapes=shapes
    )

    step("profile")
    measured = edgeattn.profile(engine, output=report, shapes=shapes, **asked["measure"])
    values = measured.to_dict()
    parents = {role: parent.sha256 for role, parent in manifest.parents.items()}
    return {
        "figures": figures(values, comparison.figures(), comparison.num_samples)
        | {"engine_bytes": sum(engine.with_name(f).stat().st_size for f in manifest.files)},
        "made_from": parents | {"engine": manifest.files[engine.name]},
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "samples": "random" if samples is None else "given",
        **conditions(values),
    }


def _build_options(asked: Mapping[str, Any], shapes: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in asked["build"].items() if name != "recipe"}
    if asked["engine"] == "cpu":
        return {"engine": "cpu", **given}
    from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
    from edgeattn.engine.tensorrt.request import TensorRtRequest

    chosen = {name: given.pop(name) for name in BUILD_OPTIONS if name in given}
    builder = {name: given.pop(name) for name in TENSORRT_BUILDER_OPTIONS if name in given}
    profiles = (ShapeProfile(opt=dict(shapes)),) if shapes else ()
    options = TensorRtOptions(profiles=profiles, **builder)
    request = TensorRtRequest(options=options, **given)
    return {"engine": "tensorrt", "tensorrt": request, **chosen}
