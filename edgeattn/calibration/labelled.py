"""Samples held in memory to judge a graph on, with their labels if there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeattn.arrays import LABEL_KEY, read_arrays
from edgeattn.artifacts import Parent
from edgeattn.calibration.data import open_batches
from edgeattn.calibration.sources import Array, DataSource, Stream, open_source
from edgeattn.errors import DataError
from edgeattn.inputs import InputSpec

SAMPLES = 64
LABELLED_SAMPLES = 1000


@dataclass(frozen=True)
class LabelledSamples:
    """Samples and labels, row by row.

    Attributes:
        arrays: Inputs by name, samples along axis 0.
        labels: `[samples]` class indices; `None` without.
        parent: Where they come from, with their hash.
    """

    arrays: dict[str, Array]
    labels: Array | None
    parent: Parent

    def __len__(self) -> int:
        """Count the samples."""
        return len(next(iter(self.arrays.values())))

    def half(self, number: int) -> LabelledSamples:
        """Take every other sample, from the given one on."""
        rows = slice(number, None, 2)
        arrays = {name: array[rows] for name, array in self.arrays.items()}
        labels = None if self.labels is None else self.labels[rows]
        return LabelledSamples(arrays, labels, self.parent)


def load_samples(
    data: DataSource,
    inputs: Sequence[InputSpec],
    labels: Any = None,
    *,
    most: int | None = None,
    most_labelled: int = LABELLED_SAMPLES,
    seed: int = 0,
) -> LabelledSamples:
    """Read samples.

    Args:
        data: As `open_batches` takes it.
        inputs: The graph's inputs.
        labels: Class indices, an array or a `.npy` or `.npz` file (under `label`), in the order
            of the arrays' rows, of the stream, or of the images' paths. By default an array
            `label` among the data that is no input.
        most: Most samples to use; by default 64, or if there are labels the next argument.
        most_labelled: Accuracy needs more samples than noise does.
        seed: Chooses them, and so their order.

    Raises:
        ArtifactError: If a file is missing.
        DataError: If the data does not fit the inputs, or the labels do not fit the data.
    """
    source = open_source(data, inputs)
    found = _labels(labels, data, inputs)
    most = most or (SAMPLES if found is None else most_labelled)
    if isinstance(source, Stream):
        order = np.arange(most)
    else:
        order = np.random.default_rng(seed).permutation(len(source))[:most]
        if found is not None and len(found) != len(source):
            raise DataError(
                f"there are {len(found)} labels for {len(source)} samples",
                "give one class index for each sample, in their order",
            )
    batches = open_batches(data, inputs, batch_size=1, samples=most, seed=seed)
    parts = list(batches)
    shapes = {tuple(part[spec.name].shape[1:] for spec in inputs) for part in parts}
    if len(shapes) > 1:
        raise DataError(
            f"the samples have {len(shapes)} different shapes; expected one",
            "set resize in the model's ImagePreprocess",
        )
    arrays = {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in inputs}
    count = batches.samples
    if found is not None and len(found) < count:
        raise DataError(f"there are {len(found)} labels for {count} samples")
    chosen = None if found is None else found[order[:count]]
    return LabelledSamples(arrays, chosen, Parent(batches.label, batches.sha256))


def _labels(labels: Any, data: DataSource, inputs: Sequence[InputSpec]) -> Array | None:
    if labels is None:
        if any(spec.name == LABEL_KEY for spec in inputs):
            return None
        if isinstance(data, str | Path) and Path(data).suffix == ".npz" and Path(data).is_file():
            data = read_arrays(Path(data))
        labels = data.get(LABEL_KEY) if isinstance(data, Mapping) else None
    elif isinstance(labels, str | Path):
        labels = _read_labels(Path(labels))
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"the labels are {labels.dtype} of shape {labels.shape}; expected integers of shape "
            "(samples,)"
        )
    return labels


def _read_labels(path: Path) -> Array:
    if path.suffix == ".npz":
        arrays = read_arrays(path)
        if LABEL_KEY not in arrays:
            raise DataError(
                f"{path} holds {', '.join(arrays) or 'nothing'}; expected an array {LABEL_KEY}"
            )
        return arrays[LABEL_KEY]
    if not path.is_file():
        raise DataError(f"there are no labels at {path}", "give a .npy or .npz file")
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as err:
        raise DataError(f"the labels {path} cannot be read: {err}", "give a .npy file") from err
