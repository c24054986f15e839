"""How far a result may be from the float64 oracle, by operation and type, with the reason."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Tolerance(NamedTuple):
    """Bounds as in `numpy.testing.assert_allclose`."""

    atol: float
    rtol: float
    reason: str


TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("attention", "float64"): Tolerance(
        1e-12, 0.0, "outputs are of order 1; only the order of the sums differs"
    ),
    ("attention", "float32"): Tolerance(
        2e-5, 1e-6, "a logit near 100 is rounded to 4e-6, and its weight changes by that much"
    ),
}

# Half precision has no fixed bound: the error depends on the logits. What counts is that an
# implementation is not worse than what its user would otherwise run.
HALF_ERROR_FACTOR = 2.0
HALF_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def assert_close(actual: np.ndarray, oracle: np.ndarray, operation: str, dtype: str) -> None:
    """Compare with the oracle within the table's bounds."""
    tolerance = TOLERANCES[operation, dtype]
    np.testing.assert_allclose(actual, oracle, atol=tolerance.atol, rtol=tolerance.rtol)


def assert_close_in_half(
    actual: np.ndarray, oracle: np.ndarray, framework: np.ndarray, dtype: str
) -> None:
    """Allow twice the error of the framework's own attention in the same half type.

    Args:
        actual: What is judged.
        oracle: The float64 result for the same, already rounded, inputs.
        framework: The framework's own result in the half type.
        dtype: `float16` or `bfloat16`.
    """
    ratio = error_ratio_in_half(actual, oracle, framework, dtype)
    error = float(np.abs(actual - oracle).max(initial=0.0))
    assert ratio <= HALF_ERROR_FACTOR, (
        f"error {error:.3g} in {dtype}, {ratio:.3g} times the framework's own; "
        f"allowed are {HALF_ERROR_FACTOR} times"
    )


def error_ratio_in_half(
    actual: np.ndarray, oracle: np.ndarray, framework: np.ndarray, dtype: str
) -> float:
    """Divide the largest error by the framework's own, or by what storing the result costs.

    Args:
        actual: What is judged.
        oracle: The float64 result for the same inputs.
        framework: The framework's own result in the half type.
        dtype: `float16` or `bfloat16`.
    """
    # Storing the exact result in the half type alone costs half a step, and is allowed.
    rounding = HALF_EPSILON[dtype] / 2 * float(np.abs(oracle).max(initial=0.0))
    own = float(np.abs(framework - oracle).max(initial=0.0))
    error = float(np.abs(actual - oracle).max(initial=0.0))
    return error / max(own, rounding / HALF_ERROR_FACTOR, np.finfo(np.float64).tiny)
