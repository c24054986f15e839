"""Calibration and held-out samples as small files, for `calib/samples/`.

Calibration samples come from the training part only; the held-out part is written whole.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from edgeattn.models.registry import get_entry
from edgeattn.models.train.data import DATA_SETS, Dataset
from edgeattn.models.train.recipes import model_input

# Every 31st of a class's 400 training digits: 13 of each.
_STRIDE = 31


def write_samples(folder: Path) -> list[Path]:
    """Write the samples of every data set.

    * `mnist/calibration/CLASS/INDEX.png`: 28x28 grey; the index is that of the whole set.
    * `mnist/heldout.npz`: `input` float32 `[N, 1, 28, 28]`, what the models take, and `label`
      int64 `[N]`.
    * `basic_motions/calibration.npz`, `basic_motions/heldout.npz`: the same with `input`
      `[N, 6, 100]`.

    Args:
        folder: Where to; existing files of the same names are replaced.

    Returns:
        The files written.

    Raises:
        MissingDependencyError: If a package that carries data is not installed.
        DataError: If it carries other data.
    """
    written = _write_images(DATA_SETS["mnist"](), folder / "mnist")
    return written + _write_signals(DATA_SETS["basic_motions"](), folder / "basic_motions")


def _write_images(dataset: Dataset, folder: Path) -> list[Path]:
    written = []
    for label, name in enumerate(dataset.classes):
        of_class = np.flatnonzero(~dataset.held_out & (dataset.labels == label))
        for index in of_class[::_STRIDE]:
            path = folder / "calibration" / name / f"{index:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(dataset.inputs[index]).save(path, optimize=True)
            written.append(path)
    images, labels = dataset.part(held_out=True)
    normalise = model_input(get_entry("mswin_nano").input.preprocess)
    inputs = normalise(torch.from_numpy(images)[:, None] / 255.0)
    path = folder / "heldout.npz"
    np.savez_compressed(path, input=inputs.numpy(), label=labels)
    return [*written, path]


def _write_signals(dataset: Dataset, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, held_out in (("calibration", False), ("heldout", True)):
        signals, labels = dataset.part(held_out)
        path = folder / f"{name}.npz"
        np.savez_compressed(path, input=signals, label=labels)
        written.append(path)
    return written
