"""How far one set of outputs is from another: errors, signal to noise, cosine, top-1 agreement.

Everything is computed in float64. Values that both sides share, infinities and NaN included, are
no error; a NaN or an infinity on one side only is an infinite error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from edgeattn.errors import DataError


@dataclass(frozen=True)
class OutputComparison:
    """Distance of a candidate output from its reference.

    Attributes:
        max_abs_error: Largest absolute difference, in the units of the output.
        max_rel_error: The same over the largest magnitude of the reference.
        sqnr_db: Energy of the reference over energy of the difference, in dB.
        centred_sqnr_db: The same with the reference's mean over samples (axis 0) taken out of
            it: what remains is the part that depends on the input, so a large constant cannot
            flatter. `None` if there are fewer than two samples.
        cosine: Cosine of the angle between the two outputs seen as vectors.
        top1_agreement: Percent of samples whose largest entry is at the same place; `None` if
            the output is not `[samples, classes]` with at least two classes.
    """

    max_abs_error: float
    max_rel_error: float
    sqnr_db: float
    centred_sqnr_db: float | None
    cosine: float
    top1_agreement: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Turn the comparison into JSON values; infinities, which JSON lacks, become null."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: finite_or_none(value) for name, value in values.items()}


def finite_or_none(value: float | None) -> float | None:
    """Keep a finite number; JSON has no others."""
    return value if value is not None and math.isfinite(value) else None


def compare_outputs(
    reference: Mapping[str, np.ndarray], candidate: Mapping[str, np.ndarray]
) -> dict[str, OutputComparison]:
    """Compare two sets of outputs by name.

    Args:
        reference: Outputs taken as the truth, samples along axis 0.
        candidate: Outputs of the same names and shapes.

    Raises:
        DataError: If names or shapes differ.
    """
    if reference.keys() != candidate.keys():
        raise DataError(
            f"the outputs to compare have different names: {', '.join(reference)} against "
            f"{', '.join(candidate)}"
        )
    return {name: compare_arrays(reference[name], candidate[name], name) for name in reference}


def compare_arrays(
    reference: np.ndarray, candidate: np.ndarray, name: str = "the output"
) -> OutputComparison:
    """Compare two arrays of one shape.

    Raises:
        DataError: If the shapes differ.
    """
    reference, candidate = np.asarray(reference), np.asarray(candidate)
    if reference.shape != candidate.shape:
        raise DataError(
            f"{name} has the shape {candidate.shape}; expected {reference.shape} as in the "
            "reference"
        )
    r, difference = reference.astype(np.float64), _difference(reference, candidate)
    largest = _largest_finite(r)
    max_abs_error = float(np.max(difference, initial=0.0))
    return OutputComparison(
        max_abs_error=max_abs_error,
        max_rel_error=_ratio(max_abs_error, largest),
        sqnr_db=_sqnr_db(r, difference),
        centred_sqnr_db=_centred_sqnr_db(r, difference),
        cosine=_cosine(r, candidate.astype(np.float64)),
        top1_agreement=_top1_agreement(reference, candidate),
    )


def sqnr_db(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Signal to quantization noise ratio, `10 log10(sum(r^2) / sum((r - c)^2))`, in dB.

    Returns:
        Infinite if the two are equal (two empty arrays are), minus infinite if the reference is
        zero and the candidate is not.
    """
    return _sqnr_db(np.asarray(reference, np.float64), _difference(reference, candidate))


def noise_energies(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Sum the squared differences of each sample.

    Args:
        reference: `[N, ...]`.
        candidate: The same shape.

    Returns:
        `[N]` float64; infinite where one side alone is NaN or infinite.
    """
    difference = _difference(reference, candidate)
    with np.errstate(over="ignore"):
        return np.square(difference).reshape(len(difference), -1).sum(axis=1)


def top1_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Percent of samples whose largest logit stands at the label.

    Args:
        logits: `[N, classes]`.
        labels: `[N]`, integers.

    Raises:
        DataError: If the shapes do not fit, a label is no class, or there is no sample.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not labels.size:
        raise DataError(
            f"labels of shape {labels.shape} do not fit an output of shape {logits.shape}; "
            "expected (N,) and (N, classes), N at least 1"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise DataError(
            f"the labels run from {labels.min()} to {labels.max()} ({labels.dtype}); expected "
            f"integers below the {logits.shape[1]} classes of the output"
        )
    right = (np.argmax(logits, axis=1) == labels) & ~np.isnan(_as_float(logits)).any(axis=1)
    return 100.0 * float(np.mean(right))


def _as_float(array: np.ndarray) -> np.ndarray:
    return np.asarray(array).astype(np.float64)


def _difference(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Absolute difference; 0 where both hold the same special value, inf where one does."""
    r, c = _as_float(reference), _as_float(candidate)
    same = (r == c) | (np.isnan(r) & np.isnan(c))
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.abs(r - c)
    return np.where(same, 0.0, np.where(np.isfinite(difference), difference, np.inf))


def _largest_finite(values: np.ndarray) -> float:
    return float(np.max(np.abs(values), initial=0.0, where=np.isfinite(values)))


def _ratio(error: float, size: float) -> float:
    if error == 0.0:
        return 0.0
    return error / size if size else math.inf


def _sqnr_db(signal: np.ndarray, difference: np.ndarray) -> float:
    """Infinities that both sides share are neither signal nor noise."""
    noise_peak = float(np.max(difference, initial=0.0))
    if noise_peak == 0.0:
        return math.inf
    scale = max(noise_peak, _largest_finite(signal))  # so that no square overflows
    if math.isinf(scale):
        return -math.inf
    energy = float(np.sum(np.square(np.where(np.isfinite(signal), signal, 0.0) / scale)))
    noise = float(np.sum(np.square(difference / scale)))
    return 10.0 * math.log10(energy / noise) if energy and noise else _outweighed(energy)


def _outweighed(energy: float) -> float:
    """One of signal and noise is so small beside the other that its square vanished."""
    return math.inf if energy else -math.inf


def _centred_sqnr_db(reference: np.ndarray, difference: np.ndarray) -> float | None:
    if reference.ndim == 0 or reference.shape[0] < 2:
        return None
    finite = np.where(np.isfinite(reference), reference, 0.0)
    return _sqnr_db(finite - finite.mean(axis=0), difference)


def _cosine(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Cosine of two vectors; two zero vectors agree, a zero and a non-zero one share nothing."""
    same = (reference == candidate) | (np.isnan(reference) & np.isnan(candidate))
    if same.all():
        return 1.0
    shared = same & ~np.isfinite(reference)
    r, c = reference[~shared], candidate[~shared]
    if not (np.isfinite(r).all() and np.isfinite(c).all()):
        return 0.0
    # Scaled first, so that squares neither overflow nor vanish.
    norms = [_largest_finite(r) or 1.0, _largest_finite(c) or 1.0]
    r, c = r.ravel() / norms[0], c.ravel() / norms[1]
    length = math.sqrt(float(r @ r) * float(c @ c))
    return min(1.0, max(-1.0, float(r @ c) / length)) if length else 0.0


def _top1_agreement(reference: np.ndarray, candidate: np.ndarray) -> float | None:
    """A sample with a NaN on either side has no largest entry and counts as disagreement."""
    if reference.ndim != 2 or reference.shape[0] < 1 or reference.shape[1] < 2:
        return None
    r, c = _as_float(reference), _as_float(candidate)
    agree = np.argmax(r, axis=1) == np.argmax(c, axis=1)
    return 100.0 * float(np.mean(agree & ~(np.isnan(r) | np.isnan(c)).any(axis=1)))
