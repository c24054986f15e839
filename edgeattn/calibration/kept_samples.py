"""A few calibration samples, kept to judge choices by: the same ones whatever the order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Sample = Mapping[str, NDArray[Any]]

MOST_SAMPLES = 64
MOST_BYTES = 256 << 20


class KeptSamples:
    """The samples of smallest hash, at most 64 and at most 256 MiB of them.

    A hash says nothing of a sample but its identity, so they are a fair draw, and every order and
    every division into shards draws the same.

    Args:
        most: How many at most; 0 keeps none.
        most_bytes: A limit on their memory. The sample of smallest hash is kept whatever its size.
    """

    def __init__(self, most: int = MOST_SAMPLES, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._samples: dict[bytes, dict[str, NDArray[Any]]] = {}

    def offer(self, digest: bytes, sample: Sample) -> None:
        """Keep a sample if it is among those of smallest hash."""
        if not self._most or (len(self._samples) >= self._most and digest > max(self._samples)):
            return
        self._samples[digest] = {name: np.array(array) for name, array in sample.items()}
        self._drop_surplus()

    def merge(self, other: KeptSamples) -> None:
        """Take in the samples that another one kept."""
        self._samples |= other._samples
        self._drop_surplus()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Stack the samples by hash, `[samples, ...]` by name; empty if none was kept.

        Of samples of different shapes, those of the most frequent shapes are given.
        """
        by_digest = [self._samples[digest] for digest in sorted(self._samples)]
        if not by_digest:
            return {}
        frequent = Counter(map(_shapes, by_digest)).most_common(1)[0][0]
        alike = [sample for sample in by_digest if _shapes(sample) == frequent]
        return {name: np.stack([sample[name] for sample in alike]) for name in alike[0]}

    def state(self) -> dict[str, NDArray[Any]]:
        """Give the samples as arrays, by hash and name."""
        return {
            f"{digest.hex()}/{name}": array
            for digest, sample in self._samples.items()
            for name, array in sample.items()
        }

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: If a name does not begin with a hash.
        """
        self._samples = {}
        for key, array in state.items():
            digest, _, name = key.partition("/")
            self._samples.setdefault(bytes.fromhex(digest), {})[name] = array

    def _drop_surplus(self) -> None:
        kept: dict[bytes, dict[str, NDArray[Any]]] = {}
        total = 0
        for digest in sorted(self._samples)[: self._most]:
            total += sum(array.nbytes for array in self._samples[digest].values())
            if kept and total > self._most_bytes:
                break
            kept[digest] = self._samples[digest]
        self._samples = kept


def _shapes(sample: Sample) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, array.shape) for name, array in sample.items())
