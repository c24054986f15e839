"""INT8 calibrators for TensorRT 10 and older, fed from the same data as our own calibration.

They exist for INT8 without Q/DQ nodes, which DLA wants: TensorRT runs the batches itself and
chooses the scales. It calls a calibrator from inside the build and takes an exception there for the
end of the data. So the calibrator keeps what went wrong, and leaving its block raises it: an engine
that was calibrated on half the data is never used by mistake.

References:
    NvInfer.h, IInt8EntropyCalibrator2 and IInt8MinMaxCalibrator: deprecated in 10.1, absent from
    11.0 on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgeattn.artifacts import Parent
from edgeattn.calibration.data import Batches, open_batches
from edgeattn.calibration.sources import DataSource
from edgeattn.calibration.trt_cache import ALGORITHMS
from edgeattn.engine.tensorrt.calibrator_cache import CalibratorCache
from edgeattn.engine.tensorrt.device import DeviceBuffers
from edgeattn.engine.tensorrt.imports import import_tensorrt
from edgeattn.errors import BuildError, SpecError
from edgeattn.inputs import InputSpec

Progress = Callable[[int, "int | None", str], None]

_CLASSES = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}


@contextlib.contextmanager
def int8_calibrator(
    data: DataSource,
    inputs: Sequence[InputSpec],
    graph: Parent,
    *,
    method: str = "entropy",
    samples: int | None = None,
    seed: int = 0,
    max_bad: int = 0,
    cache: Path | str | None = None,
    device: int = 0,
    progress: Progress | None = None,
) -> Iterator[Any]:
    """Open a calibrator for one build.

        with int8_calibrator("images/", inputs, graph) as calibrator:
            config.int8_calibrator = calibrator
            plan = builder.build_serialized_network(network, config)

    Args:
        data: As `edgeattn.calibrate` takes it.
        inputs: The network's inputs, every dimension with its size, which is that of the
            calibration profile. Batches are full: what does not fill the last one is left out.
        graph: Name and hash of what TensorRT parses.
        method: `entropy` (IInt8EntropyCalibrator2, the only one that DLA accepts) or `minmax`.
        samples: Most samples to use; by default all.
        seed: Chooses the samples.
        max_bad: Unreadable images to skip before giving up.
        cache: File to keep TensorRT's scales in. It is used again if graph, data, shapes, method
            and TensorRT's version are the same.
        device: The GPU.
        progress: Called after each batch with the samples done, their total if known, and a word.

    Yields:
        An object of TensorRT's calibrator class; valid inside the block.

    Raises:
        ArtifactError: If the cache is not one that this function wrote, or cannot be written.
        BuildError: If this TensorRT has no calibrators, or did not use this one.
        DataError: If the data cannot be read or does not fit the inputs.
        EngineError: If CUDA fails.
        MissingDependencyError: If TensorRT or pycuda is not installed.
        SpecError: If the method is unknown or an input has a free dimension.
    """
    calibrator_class = _calibrator_class(method)
    _check_sizes(inputs)

    def open_data() -> Batches:
        return open_batches(data, inputs, samples=samples, seed=seed, max_bad=max_bad)

    store = None
    if cache is not None:
        if isinstance(data, Iterator):
            raise SpecError(
                "a calibration cache needs data that can be read twice; an iterator cannot",
                "give files, arrays or module:function, or no cache",
            )
        options = {
            "algorithm": ALGORITHMS[method],
            "tensorrt": import_tensorrt().__version__,
            "inputs": {spec.name: [spec.dtype, *spec.shape] for spec in inputs},
        }
        store = CalibratorCache(Path(cache), graph, options, open_data)
    with contextlib.closing(BatchFeed(open_data(), store, device, progress)) as feed:
        try:
            yield calibrator_class(feed)
        finally:
            feed.raise_kept()
        if not feed.was_used:
            raise BuildError(
                "TensorRT did not calibrate: it asked for neither a batch nor a cache",
                "INT8 has to be set in the configuration, and the graph must have no Q/DQ nodes",
            )


class BatchFeed:
    """What TensorRT's calibrators are asked for, in Python's terms and without TensorRT.

    Args:
        batches: Full batches of the sizes that the network calibrates at.
        store: Where the scales are kept; `None` to keep none.
        device: The GPU.
        progress: Called after each batch.

    Attributes:
        batch_size: Samples per batch.
        was_used: Whether a batch or a cache was handed out.

    Raises:
        ArtifactError: As `CalibratorCache.load`.
        DataError: As `CalibratorCache.load`.
    """

    def __init__(
        self,
        batches: Batches,
        store: CalibratorCache | None = None,
        device: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.batch_size = batches.batch_size
        self.was_used = False
        self._batches = batches
        self._arrays = iter(batches)
        self._store = store
        self._kept = store.load() if store else None
        self._device = device
        self._buffers: DeviceBuffers | None = None
        self._progress = progress
        self._error: BaseException | None = None

    def get_batch(self, names: Sequence[str]) -> list[int] | None:
        """Put the next batch on the GPU.

        Args:
            names: Inputs, in the order in which their addresses are wanted.

        Returns:
            One address per name; `None` at the end of the data, and after an error.
        """
        if self._error is not None:
            return None
        try:
            return self._next_addresses(names)
        except BaseException as err:  # TensorRT would print it and take it for the end of the data
            self._error = err
            return None

    def read_cache(self) -> bytes | None:
        """Give the scales of an earlier build of the same graph from the same data."""
        self.was_used |= self._kept is not None
        return self._kept

    def write_cache(self, content: bytes) -> None:
        """Keep the scales that TensorRT found, unless it found them on part of the data.

        TensorRT also writes scales that it has just read.
        """
        if self._store is None or self._error is not None or not self._batches.samples:
            return
        try:
            self._store.save(content, self._batches)
        except BaseException as err:  # as in get_batch
            self._error = err

    def raise_kept(self) -> None:
        """Raise what went wrong in a call from TensorRT, Ctrl-C included."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Free the GPU's memory."""
        if self._buffers:
            self._buffers.close()

    def _next_addresses(self, names: Sequence[str]) -> list[int] | None:
        arrays = next(self._arrays, None)
        if arrays is None:
            return None
        unknown = [name for name in names if name not in arrays]
        if unknown:
            raise BuildError(
                f"TensorRT asks for the input {unknown[0]}; the data has {', '.join(arrays)}",
                "describe every input of the network",
            )
        if self._buffers is None:  # every batch is as large as the first
            sizes = {name: array.nbytes for name, array in arrays.items()}
            self._buffers = DeviceBuffers(sizes, self._device)
        self._buffers.fill(arrays)
        self.was_used = True
        if self._progress:
            self._progress(self._batches.samples, self._batches.total, "calibrating")
        return [self._buffers[name] for name in names]


def _calibrator_class(method: str) -> type:
    """Make a class of TensorRT's that asks a `BatchFeed`.

    Raises:
        BuildError: If this TensorRT has no calibrators.
        MissingDependencyError: If TensorRT is not installed.
        SpecError: If the method is unknown.
    """
    if method not in _CLASSES:
        raise SpecError(
            f"the method of TensorRT's calibrator is {method!r}", f"use {' or '.join(_CLASSES)}"
        )
    trt = import_tensorrt()
    base = getattr(trt, _CLASSES[method], None)
    if base is None:
        raise BuildError(
            f"TensorRT {trt.__version__} has no INT8 calibrators: from version 11 on, INT8 is in "
            "the graph alone",
            "quantize the graph with edgeattn quantize, and build it without implicit INT8",
        )

    class Calibrator(base):  # type: ignore[misc, valid-type]
        """Hands TensorRT's questions on to a `BatchFeed`."""

        def __init__(self, feed: BatchFeed) -> None:
            super().__init__()
            self._feed = feed

        def get_batch_size(self) -> int:
            """Samples per batch."""
            return self._feed.batch_size

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            """Addresses of the next batch."""
            return self._feed.get_batch(names)

        def read_calibration_cache(self) -> bytes | None:
            """Scales of an earlier build."""
            return self._feed.read_cache()

        def write_calibration_cache(self, cache: Any) -> None:
            """Keep scales; the buffer is TensorRT's and ends with the call."""
            self._feed.write_cache(bytes(cache))

    return Calibrator


def _check_sizes(inputs: Sequence[InputSpec]) -> None:
    for spec in inputs:
        free = [dim for dim in spec.shape if not isinstance(dim, int)]
        if free:
            raise SpecError(
                f"the input {spec.name} has the free dimension {free[0]}; TensorRT calibrates at "
                "one size",
                "give the sizes of the calibration profile",
            )
