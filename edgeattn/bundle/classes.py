"""The classes that a bundle's model tells apart, and which of them an output means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeattn.artifacts import parse_json
from edgeattn.bundle.format import LABELS, POSTPROCESS
from edgeattn.bundle.read import Bundle
from edgeattn.errors import ArtifactError


@dataclass(frozen=True)
class Classes:
    """What a classifier tells apart.

    Attributes:
        output: The output with a value for each class along its last axis.
        names: The classes, in its order.
    """

    output: str
    names: tuple[str, ...]


def read_classes(path: Path) -> Classes | None:
    """Read the classes of a bundle; `None` if it has none.

    Raises:
        ArtifactError: If the bundle is not whole, or they are malformed.
    """
    with Bundle.open(path) as bundle:
        spec, labels = bundle.manifest.of_role(POSTPROCESS), bundle.manifest.of_role(LABELS)
        if not spec or not labels:
            return None
        values = parse_json(bundle.read(spec[0].name), f"{spec[0].name} in {path}", "JSON")
        text = bundle.read(labels[0].name)
    try:
        if values["kind"] != "classification":
            return None  # whatever else there is some day is not read off the largest value
        return Classes(str(values["output"]), tuple(text.decode().splitlines()))
    except (KeyError, TypeError, UnicodeDecodeError) as err:
        raise ArtifactError(
            f"{path} describes its outputs in a malformed way: {err!r}", "make it again"
        ) from err


def likeliest(classes: Classes, outputs: Mapping[str, np.ndarray]) -> list[str]:
    """Name the class with the largest value in each sample.

    Args:
        classes: The classes.
        outputs: Arrays by name, `[N, ..., C]`; of inner axes the first place counts.

    Raises:
        ArtifactError: If the outputs are not those of the classes.
    """
    array = outputs.get(classes.output)
    if array is None or array.shape[-1:] != (len(classes.names),):
        raise ArtifactError(
            f"{len(classes.names)} classes are named for the output {classes.output}, which has "
            f"the shape {None if array is None else array.shape}",
            "make the bundle again",
        )
    return [classes.names[int(i)] for i in np.argmax(array, axis=-1).reshape(len(array), -1)[:, 0]]
