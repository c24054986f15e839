"""The shapes that a bundle's engine is measured with, where it leaves sizes open."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from edgeattn.arrays import read_arrays
from edgeattn.bundle.format import GOLDEN_INPUTS, PREPROCESS
from edgeattn.bundle.read import Bundle
from edgeattn.bundle.recipe import Recipe

Shape = tuple[int, ...]


def measured_shapes(bundle: Bundle) -> dict[str, Shape]:
    """Choose a shape for each input with an open size.

    What TensorRT is asked to be fastest at, if the bundle says so; else that of the golden inputs,
    one sample at a time.

    Args:
        bundle: The bundle, open.

    Raises:
        ArtifactError: If it cannot be read any more.
    """
    (described,) = bundle.manifest.of_role(PREPROCESS)
    specs = {
        spec["name"]: spec["shape"] for spec in json.loads(bundle.read(described.name))["inputs"]
    }
    is_open = {name for name, shape in specs.items() if any(isinstance(d, str) for d in shape)}
    if not is_open:
        return {}
    profiles = Recipe.from_dict(bundle.manifest.build, str(bundle.path)).tensorrt.options.profiles
    if profiles:
        return {name: tuple(shape) for name, shape in profiles[0].opt.items() if name in is_open}
    (golden,) = bundle.manifest.of_role(GOLDEN_INPUTS)
    with tempfile.TemporaryDirectory(prefix="edgeattn-") as folder:
        inputs = read_arrays(bundle.extract(golden.name, Path(folder)))
    shapes = {}
    for name in sorted(is_open):
        first = 1 if isinstance(specs[name][0], str) else specs[name][0]
        shapes[name] = (first, *inputs[name].shape[1:])
    return shapes
