"""Tensors by name in `.npz` files: inputs, outputs and labelled sets."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeattn.artifacts import atomic_path, open_for_reading
from edgeattn.errors import DataError

LABEL_KEY = "label"  # may stand beside the inputs: the classes of a labelled set


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a `.npz` file. Python objects in it are never loaded.

    Raises:
        ArtifactError: If the file is missing or unreadable.
        DataError: If it is not a whole `.npz` file, or holds more than arrays of numbers.
    """
    with open_for_reading(path) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                names = [name for name in archive.namelist() if name.endswith(".npy")]
                arrays = {}
                for name in names:
                    with archive.open(name) as member:
                        array = np.lib.format.read_array(member, allow_pickle=False)
                    arrays[name.removesuffix(".npy")] = array
        except Exception as err:  # a damaged header can raise what Python's tokenizer does
            raise DataError(
                f"{path} is not a whole .npz file of arrays: {err}",
                "write it with numpy.savez(path, name=array); Python objects are never loaded",
            ) from err
    return arrays


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a `.npz` file, whole or not at all; equal arrays give equal bytes.

    Raises:
        ArtifactError: If the folder is missing or not writable.
    """
    # numpy.savez takes names as keywords and trips over a tensor called `file`.
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            undated = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(undated, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
