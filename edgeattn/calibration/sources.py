"""Where samples come from: an image folder, arrays, a function, any iterable.

A sample maps the names of the graph's inputs to arrays without the batch dimension. Sources with
random access can be shuffled; a stream is read as it comes.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeattn.arrays import LABEL_KEY, read_arrays
from edgeattn.calibration.images import IMAGE_SUFFIXES, check_image_input, load_image
from edgeattn.calibration.random_samples import RandomSamples, RandomSource
from edgeattn.errors import DataError
from edgeattn.inputs import InputSpec

Array = NDArray[Any]
Sample = dict[str, Array]
DataSource = str | Path | RandomSamples | Iterable[Any]


class IndexedSource(Protocol):
    """Samples with random access."""

    label: str

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def name(self, index: int) -> str:
        """Say which sample one is, for messages."""
        ...

    def load(self, index: int) -> Sample:
        """Read one sample."""
        ...


def open_source(source: DataSource, inputs: Sequence[InputSpec]) -> IndexedSource | Stream:
    """Find out what a source is and open it.

    Args:
        source: A folder of images, a `.npz` or `.npy` file, `module:function`, an array, a
            mapping of arrays, an iterable of either, or `RandomSamples`.
        inputs: The graph's inputs.

    Raises:
        DataError: If there is no such source or it does not fit the inputs.
    """
    for spec in inputs:
        if not spec.shape:
            raise DataError(
                f"input {spec.name} is a scalar; expected a batch dimension",
                "export the model with batched inputs",
            )
    if isinstance(source, str | Path):
        return _open_named(source, inputs)
    if isinstance(source, RandomSamples):
        return RandomSource(source, inputs)
    if isinstance(source, np.ndarray):
        return ArraySource(_single(source, inputs), inputs, "an array")
    if isinstance(source, Mapping):
        return ArraySource(dict(source), inputs, "arrays")
    if isinstance(source, Iterable):
        return Stream(source, inputs, "an iterable")
    raise DataError(
        f"data is a {type(source).__name__}",
        "give a path, module:function, arrays or an iterable of them",
    )


def _open_named(source: str | Path, inputs: Sequence[InputSpec]) -> IndexedSource | Stream:
    path = Path(source)
    if path.is_dir():
        return ImageFolder(path, inputs)
    if path.is_file():
        return ArraySource(_load_arrays(path, inputs), inputs, path.name)
    if isinstance(source, str) and re.fullmatch(r"[\w.]+:\w+", source):
        return Stream(_call(source), inputs, source, foreign=True)
    raise DataError(
        f"there is no data at {source}",
        "give a folder of images, a .npz or .npy file, or module:function",
    )


class ImageFolder:
    """Image files of a folder and its subfolders, in the order of their paths.

    Args:
        folder: Searched recursively, so that a folder per class is fine; hidden files are no part
            of it.
        inputs: Exactly one input, which takes images.

    Attributes:
        ignored: Files without an image's suffix, in the order of their paths.

    Raises:
        DataError: If there is no image or the graph does not take one.
    """

    def __init__(self, folder: Path, inputs: Sequence[InputSpec]) -> None:
        if len(inputs) != 1:
            raise DataError(
                f"an image folder feeds one input, but the graph has {len(inputs)}: "
                f"{', '.join(spec.name for spec in inputs)}",
                "give arrays in a .npz file",
            )
        check_image_input(inputs[0])
        self.label = folder.name or str(folder)
        self._spec = inputs[0]
        found = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
        shown = sorted(
            (path for path in found if not path.name.startswith(".")),
            key=lambda path: path.relative_to(folder).as_posix(),
        )
        self._files = [path for path in shown if path.suffix.lower() in IMAGE_SUFFIXES]
        self.ignored = [
            path.relative_to(folder).as_posix()
            for path in shown
            if path.suffix.lower() not in IMAGE_SUFFIXES
        ]
        if not self._files:
            raise DataError(
                f"the folder {folder} holds no image",
                f"expected files that end in {', '.join(sorted(IMAGE_SUFFIXES))}",
            )

    def __len__(self) -> int:
        """Count the files."""
        return len(self._files)

    def name(self, index: int) -> str:
        """Path of one file."""
        return str(self._files[index])

    def load(self, index: int) -> Sample:
        """Decode one file.

        Raises:
            BadImageError: If it is not a whole image.
        """
        return {self._spec.name: load_image(self._files[index], self._spec)}


class ArraySource:
    """Rows of arrays.

    Args:
        arrays: By input name, each `[N, ...]` with the same N; a `label` is ignored.
        inputs: The graph's inputs.
        label: What the arrays are, for messages.

    Raises:
        DataError: If names, shapes, types or lengths do not fit the inputs.
    """

    def __init__(self, arrays: Mapping[str, Array], inputs: Sequence[InputSpec], label: str):
        self.label = label
        self._arrays = _match_inputs(arrays, inputs, label)
        for spec in inputs:
            check_batch(spec, self._arrays[spec.name], label)
        lengths = {name: len(array) for name, array in self._arrays.items()}
        if len(set(lengths.values())) != 1:
            raise DataError(
                f"the inputs in {label} have different numbers of samples: {lengths}",
                "row i of every input belongs to sample i",
            )
        self._length = next(iter(lengths.values()))
        if not self._length:
            raise DataError(f"{label} holds no sample", "give at least one")

    def __len__(self) -> int:
        """Count the rows."""
        return self._length

    def name(self, index: int) -> str:
        """Number of one row, with what the arrays are."""
        return f"sample {index} of {self.label}"

    def load(self, index: int) -> Sample:
        """Read one row.

        Raises:
            DataError: If it holds NaN.
        """
        sample = {name: np.array(array[index]) for name, array in self._arrays.items()}
        check_numbers(sample, self.name(index))
        return sample


class Stream:
    """Samples in the order in which an iterable gives them.

    Args:
        items: Arrays (for a graph of one input) or mappings of arrays: batches of any length,
            or single samples without the batch dimension.
        inputs: The graph's inputs.
        label: What the stream is, for messages.
        foreign: Name the source in place of a traceback if the iterable fails.
    """

    def __init__(
        self, items: Iterable[Any], inputs: Sequence[InputSpec], label: str, foreign: bool = False
    ) -> None:
        self.label = label
        self._items = items
        self._inputs = inputs
        self._foreign = foreign

    def __iter__(self) -> Iterator[tuple[str, Sample]]:
        """Yield single samples, each with its name for messages.

        Raises:
            DataError: If an item does not fit the inputs or holds NaN.
        """
        for number, item in enumerate(self._read()):
            label = f"item {number} of {self.label}"
            arrays = item if isinstance(item, Mapping) else _single(item, self._inputs)
            yield from self._split(_match_inputs(arrays, self._inputs, label), label)

    def _read(self) -> Iterator[Any]:
        try:
            yield from self._items
        except Exception as err:
            if not self._foreign or isinstance(err, DataError):
                raise
            raise DataError(
                f"{self.label} failed: {type(err).__name__}: {err}",
                "the function that gives the data has to be repaired",
            ) from err

    def _split(self, arrays: dict[str, Array], label: str) -> Iterator[tuple[str, Sample]]:
        single = all(arrays[spec.name].ndim == len(spec.shape) - 1 for spec in self._inputs)
        if single:
            arrays = {name: array[None] for name, array in arrays.items()}
        for row in range(len(source := ArraySource(arrays, self._inputs, label))):
            yield source.name(row), source.load(row)


def check_batch(spec: InputSpec, array: Array, label: str) -> None:
    """Refuse an array that is not a batch of an input.

    Raises:
        DataError: If its type or any size but the first differs.
    """
    if array.dtype.name != spec.dtype:
        raise DataError(
            f"input {spec.name} in {label} has the type {array.dtype.name}; expected {spec.dtype}",
            f"convert it: array.astype({spec.dtype!r})",
        )
    fits = array.ndim == len(spec.shape) and all(
        isinstance(dim, str) or dim == size
        for dim, size in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        expected = ", ".join(str(dim) for dim in ("any", *spec.shape[1:]))
        raise DataError(
            f"input {spec.name} in {label} has the shape {array.shape}; expected ({expected})",
            "samples stand along axis 0, each preprocessed as the model expects",
        )


def check_numbers(sample: Sample, label: str) -> None:
    """Refuse NaN.

    Raises:
        DataError: If an input holds one.
    """
    for name, array in sample.items():
        if np.any(array != array):  # true of NaN alone, in every number type
            raise DataError(
                f"input {name} in {label} holds NaN", "look at where the data comes from"
            )


def _match_inputs(arrays: Mapping[str, Any], inputs: Sequence[InputSpec], label: str) -> Sample:
    names = [spec.name for spec in inputs]
    given = [name for name in arrays if name != LABEL_KEY or name in names]
    missing = [name for name in names if name not in given]
    extra = [name for name in given if name not in names]
    if missing or extra:
        raise DataError(
            f"{label} holds {', '.join(map(str, given)) or 'nothing'}; "
            f"the graph's inputs are {', '.join(names)}",
            f"name the arrays after the inputs; only {LABEL_KEY} may stand beside them",
        )
    return {name: np.asarray(arrays[name]) for name in names}


def _single(array: Any, inputs: Sequence[InputSpec]) -> Sample:
    if len(inputs) != 1:
        raise DataError(
            f"an array without a name feeds one input, but the graph has {len(inputs)}: "
            f"{', '.join(spec.name for spec in inputs)}",
            "give them by name: a mapping, or a .npz file",
        )
    return {inputs[0].name: np.asarray(array)}


def _load_arrays(path: Path, inputs: Sequence[InputSpec]) -> Sample:
    if path.suffix not in (".npz", ".npy"):
        raise DataError(
            f"{path} is not data that edgeattn reads",
            "give a folder of images, a .npz or .npy file, or module:function",
        )
    if path.suffix == ".npz":
        return _match_inputs(read_arrays(path), inputs, path.name)
    try:  # rows are read as they are needed
        rows = np.lib.format.open_memmap(path, mode="r")
    except Exception as err:  # a damaged header can raise what Python's tokenizer does
        raise DataError(
            f"{path} cannot be read: {err}",
            "it may be truncated, or hold Python objects, which are never loaded",
        ) from err
    return _single(rows, inputs)


def _call(name: str) -> Iterable[Any]:
    module_name, _, function_name = name.partition(":")
    try:
        # An installed command does not look into the working folder, where users keep such a file.
        sys.path.insert(0, str(Path.cwd()))
        try:
            module = importlib.import_module(module_name)
        finally:
            sys.path.pop(0)
        items = getattr(module, function_name)()
    except Exception as err:
        raise DataError(
            f"{name} failed: {type(err).__name__}: {err}",
            "expected a function without arguments that returns an iterable of batches",
        ) from err
    if not isinstance(items, Iterable):
        raise DataError(
            f"{name} returned a {type(items).__name__}; expected an iterable",
            "return a list of batches, or yield them",
        )
    return items
