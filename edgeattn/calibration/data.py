"""Batches for a graph's inputs: chosen by seed, of one size, each sample accounted for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from edgeattn.calibration.images import BadImageError
from edgeattn.calibration.sources import (
    Array,
    DataSource,
    ImageFolder,
    IndexedSource,
    Sample,
    Stream,
    open_source,
)
from edgeattn.errors import DataError
from edgeattn.inputs import InputSpec


def open_batches(
    source: DataSource,
    inputs: Sequence[InputSpec],
    *,
    batch_size: int = 8,
    samples: int | None = None,
    seed: int = 0,
    max_bad: int = 0,
) -> Batches:
    """Open a data source as batches for a graph's inputs.

    Args:
        source: A folder of images (searched recursively), a `.npz` file whose keys are the inputs'
            names, a `.npy` file, `module:function` (called without arguments; returns an
            iterable), an array, a mapping of arrays, an iterable of arrays or mappings, or
            `RandomSamples`.
        inputs: The graph's inputs; a first dimension of fixed size rules over `batch_size`.
        batch_size: Samples per batch.
        samples: Most samples to use; `None` for all.
        seed: Chooses and shuffles the samples of files and arrays; a stream keeps its order.
        max_bad: Unreadable images to skip before giving up.

    Returns:
        Batches, read as they are asked for.

    Raises:
        DataError: If there is no such source, it does not fit the inputs, or a number is out of
            range.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("samples", 1 if samples is None else samples, 1),
        ("max_bad", max_bad, 0),
        ("seed", seed, 0),
    ):
        if value < least:
            raise DataError(f"{name} is {value}; expected at least {least}", f"give another {name}")
    fixed = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], int)}
    if len(fixed) > 1:
        raise DataError(
            "the graph's inputs have different batch sizes: "
            + ", ".join(f"{spec.name} {spec.shape}" for spec in inputs),
            "export the model with one batch size for all inputs",
        )
    size = int(fixed.pop()) if fixed else batch_size
    return Batches(open_source(source, inputs), inputs, size, samples, seed, max_bad)


class Batches:
    """Batches of a data source; iterate once, then ask what was used.

    Attributes:
        label: Short name of the source.
        batch_size: Samples per batch. A graph of fixed batch size gets full batches only; else
            the last one may be smaller.
        total: Samples to expect, or `None` if the source does not tell.
        samples: Samples yielded so far.
        left_out: Samples that did not fill a last batch of fixed size.
        ignored: Files of an image folder that are no images by their names.
        skipped: What was wrong with each image that was skipped.
        digests: Hash of each sample yielded so far, in order, as the graph sees it: names, types,
            shapes and values of its inputs.
        names: Which samples the last batch holds, in order, for messages.
    """

    def __init__(
        self,
        source: IndexedSource | Stream,
        inputs: Sequence[InputSpec],
        batch_size: int,
        limit: int | None,
        seed: int,
        max_bad: int,
    ) -> None:
        self.label = source.label
        self.batch_size = batch_size
        self.samples = 0
        self.left_out = 0
        self.ignored = source.ignored if isinstance(source, ImageFolder) else []
        self.skipped: list[str] = []
        self._source = source
        self._names = [spec.name for spec in inputs]
        self._must_fill = any(isinstance(spec.shape[0], int) for spec in inputs)
        self._limit = limit
        self._seed = seed
        self._max_bad = max_bad
        self.digests: list[bytes] = []
        self.names: list[str] = []

    @property
    def total(self) -> int | None:
        """Samples to expect."""
        if isinstance(self._source, Stream):
            return self._limit
        count = len(self._source)
        return count if self._limit is None else min(count, self._limit)

    @property
    def sha256(self) -> str:
        """Hash of the samples yielded so far, whatever their order and batches."""
        return data_sha256(self.digests)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """Yield batches by input name, each array `[batch, ...]`.

        Raises:
            DataError: If more than `max_bad` images are bad, a sample does not fit or holds NaN,
                or nothing is left.
        """
        self.samples = self.left_out = 0
        self.skipped, self.digests = [], []
        pending: list[tuple[str, Sample]] = []
        for named in self._limited():
            pending.append(named)
            if len(pending) == self.batch_size:
                yield self._collate(pending)
                pending = []
        if pending and self._must_fill:
            self.left_out = len(pending)
        elif pending:
            yield self._collate(pending)
        if not self.samples:
            raise DataError(
                f"{self.label} gave {self.left_out} good samples; expected at least "
                f"{self.batch_size if self._must_fill else 1}"
                + (f", and {len(self.skipped)} images were skipped" if self.skipped else ""),
                "give more data, or export the model with a smaller or free batch size",
            )

    def _limited(self) -> Iterator[tuple[str, Sample]]:
        for count, named in enumerate(self._good(), start=1):
            yield named
            if count == self._limit:  # before the source is asked for one more
                return

    def _good(self) -> Iterator[tuple[str, Sample]]:
        if isinstance(self._source, Stream):
            yield from self._source
            return
        for index in np.random.default_rng(self._seed).permutation(len(self._source)):
            try:
                sample = self._source.load(int(index))
            except BadImageError as err:
                self._skip(err)
            else:
                yield self._source.name(int(index)), sample

    def _skip(self, err: BadImageError) -> None:
        self.skipped.append(err.message)
        if len(self.skipped) <= self._max_bad:
            return
        if not self._max_bad:
            raise DataError(
                err.message, err.hint or "remove it, or skip a few bad images with max_bad"
            ) from err
        raise DataError(
            f"{len(self.skipped)} images are bad, more than max_bad = {self._max_bad}: "
            + "; ".join(self.skipped),
            "repair or remove them, or raise max_bad",
        ) from err

    def _collate(self, named: list[tuple[str, Sample]]) -> dict[str, Array]:
        samples = [sample for _, sample in named]
        batch = {}
        for name in self._names:
            shapes = sorted({sample[name].shape for sample in samples})
            if len(shapes) > 1:
                raise DataError(
                    f"samples of input {name} in one batch have different shapes: "
                    f"{' and '.join(map(str, shapes))}",
                    "set resize in the model's ImagePreprocess, or use batch_size 1",
                )
            batch[name] = np.stack([sample[name] for sample in samples])
        self.names = [name for name, _ in named]
        self.digests += [_digest(sample) for sample in samples]
        self.samples += len(samples)
        return batch


def data_sha256(digests: Sequence[bytes]) -> str:
    """Hash a data set, whatever the order of its samples; hexadecimal."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _digest(sample: Sample) -> bytes:
    digest = hashlib.sha256()
    for name, array in sample.items():
        digest.update(f"{name} {array.dtype.name} {array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
