"""Values to observe, drawn and made, and ways to take them apart."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

ANY_FLOAT = st.floats(width=32, allow_nan=False, allow_infinity=False)
ORDINARY = st.floats(-100, 100, width=32)
VALUES = hnp.arrays(np.float32, st.integers(1, 200), elements=ANY_FLOAT | ORDINARY)
SEEDS = st.integers(0, 2**32 - 1)

SPREADS = ("normal", "heavy tail", "one outlier", "half zeros", "two clusters", "tiny")


def spread_values(spread: str, count: int = 100_003) -> np.ndarray:
    """Draw values as activations are spread: the same for the same arguments."""
    rng = np.random.default_rng([SPREADS.index(spread), count])
    values = rng.standard_normal(count)
    if spread == "heavy tail":
        values = rng.standard_cauchy(count)
    elif spread == "one outlier":
        values[count // 3] = 1e3
    elif spread == "half zeros":
        values = np.maximum(values, 0)
    elif spread == "two clusters":
        values = np.where(rng.random(count) < 0.99, values, 40 + values)
    elif spread == "tiny":
        values *= 1e-20
    return values.astype(np.float32)


def shuffled_chunks(values: np.ndarray, seed: int) -> list[np.ndarray]:
    """Shuffle values and cut them somewhere, up to five times."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.integers(0, values.size + 1, rng.integers(0, 6)))
    return np.split(rng.permutation(values), cuts)
