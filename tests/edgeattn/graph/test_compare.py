"""Every metric against its formula, and on the inputs where formulas divide by zero."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from edgeattn.errors import DataError
from edgeattn.graph.compare import (
    compare_arrays,
    compare_outputs,
    sqnr_db,
    top1_accuracy,
)

REFERENCE = np.array([[1.0, 2.0, -4.0], [0.5, 3.0, 1.0]], np.float32)


def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    for shape in ((1, 2), (5, 7), (3, 4, 5), (2,), (9, 1)):
        reference = rng.standard_normal(shape)
        yield reference, reference + 0.01 * rng.standard_normal(shape)


@pytest.mark.parametrize(("reference", "candidate"), list(pairs()))
def test_metrics_equal_their_formulas(reference: np.ndarray, candidate: np.ndarray) -> None:
    found = compare_arrays(reference, candidate)
    noise = np.sum((reference - candidate) ** 2)
    assert found.max_abs_error == np.abs(reference - candidate).max()
    assert found.max_rel_error == found.max_abs_error / np.abs(reference).max()
    assert found.sqnr_db == pytest.approx(10 * np.log10(np.sum(reference**2) / noise))
    lengths = np.linalg.norm(reference) * np.linalg.norm(candidate)
    assert found.cosine == pytest.approx(np.sum(reference * candidate) / lengths)
    if reference.shape[0] > 1:
        centred = reference - reference.mean(axis=0)
        assert found.centred_sqnr_db == pytest.approx(10 * np.log10(np.sum(centred**2) / noise))
    else:
        assert found.centred_sqnr_db is None


def test_a_large_constant_raises_sqnr_but_not_centred_sqnr() -> None:
    rng = np.random.default_rng(1)
    reference = rng.standard_normal((50, 10))
    candidate = reference + 0.1 * rng.standard_normal((50, 10))
    plain, shifted = (
        compare_arrays(reference, candidate),
        compare_arrays(reference + 100, candidate + 100),
    )
    assert shifted.sqnr_db > plain.sqnr_db + 35
    assert plain.centred_sqnr_db is not None
    assert shifted.centred_sqnr_db == pytest.approx(plain.centred_sqnr_db)


def test_float32_arrays_are_compared_in_float64() -> None:
    reference = np.full(10_000, 1e8, np.float32)
    candidate = reference + np.float32(8)
    assert compare_arrays(reference, candidate).sqnr_db == pytest.approx(20 * math.log10(1e8 / 8))


def test_equal_outputs_have_no_error() -> None:
    found = compare_arrays(REFERENCE, REFERENCE.copy())
    assert (found.max_abs_error, found.max_rel_error) == (0.0, 0.0)
    assert found.sqnr_db == found.centred_sqnr_db == math.inf
    assert (found.cosine, found.top1_agreement) == (1.0, 100.0)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0)])
def test_empty_outputs_are_equal(shape: tuple[int, ...]) -> None:
    found = compare_arrays(np.zeros(shape), np.zeros(shape))
    assert (found.max_abs_error, found.sqnr_db, found.cosine) == (0.0, math.inf, 1.0)
    assert found.top1_agreement is None


def test_scalars_are_compared() -> None:
    found = compare_arrays(np.float32(2), np.float32(1))
    assert (found.max_abs_error, found.max_rel_error, found.cosine) == (1.0, 0.5, 1.0)
    assert found.centred_sqnr_db is None


def test_a_zero_reference_has_infinite_relative_error() -> None:
    found = compare_arrays(np.zeros((2, 3)), np.ones((2, 3)))
    assert (found.max_abs_error, found.max_rel_error) == (1.0, math.inf)
    assert (found.sqnr_db, found.centred_sqnr_db, found.cosine) == (-math.inf, -math.inf, 0.0)


def test_a_zero_candidate_has_zero_sqnr() -> None:
    found = compare_arrays(REFERENCE, np.zeros_like(REFERENCE))
    assert (found.sqnr_db, found.cosine, found.max_rel_error) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_a_special_value_on_one_side_is_an_infinite_error(special: float) -> None:
    broken = REFERENCE.copy()
    broken[1, 2] = special
    for found in (compare_arrays(REFERENCE, broken), compare_arrays(broken, REFERENCE)):
        assert (found.max_abs_error, found.sqnr_db, found.cosine) == (math.inf, -math.inf, 0.0)
        assert found.centred_sqnr_db == -math.inf


def test_infinities_of_opposite_sign_are_an_infinite_error() -> None:
    found = compare_arrays(np.array([math.inf, 1.0]), np.array([-math.inf, 1.0]))
    assert (found.max_abs_error, found.sqnr_db, found.cosine) == (math.inf, -math.inf, 0.0)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
def test_a_special_value_that_both_share_is_no_error(special: float) -> None:
    reference = np.concatenate([REFERENCE, [[special, 1, 1]]], axis=0)
    candidate = reference + np.float32(0.5)
    found, plain = compare_arrays(reference, candidate), compare_arrays(REFERENCE, REFERENCE + 0.5)
    assert found.max_abs_error == 0.5
    assert found.max_rel_error == plain.max_rel_error
    assert math.isfinite(found.sqnr_db)
    assert 0.9 < found.cosine < 1


def test_a_sample_with_nan_never_agrees() -> None:
    both = REFERENCE.copy()
    both[0, 0] = math.nan
    assert compare_arrays(both, both).top1_agreement == 50.0
    assert top1_accuracy(both, np.array([0, 1])) == 50.0


def test_top1_agreement_counts_samples() -> None:
    candidate = REFERENCE.copy()
    candidate[1] = [9, 0, 0]
    assert compare_arrays(REFERENCE, candidate).top1_agreement == 50.0


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 3, 4)])
def test_what_has_no_classes_has_no_top1(shape: tuple[int, ...]) -> None:
    assert compare_arrays(np.ones(shape), np.ones(shape)).top1_agreement is None


@given(
    arrays_of.arrays(np.float64, (3, 4), elements=st.floats(allow_nan=True, allow_infinity=True)),
    arrays_of.arrays(np.float64, (3, 4), elements=st.floats(allow_nan=True, allow_infinity=True)),
)
def test_any_two_arrays_can_be_compared_without_a_warning(
    reference: np.ndarray, candidate: np.ndarray
) -> None:
    found = compare_arrays(reference, candidate)
    assert found.max_abs_error >= 0
    assert not any(math.isnan(v) for v in vars(found).values() if v is not None)
    assert -1 <= found.cosine <= 1
    json.dumps(found.to_dict(), allow_nan=False)


def test_infinite_figures_become_null_in_json() -> None:
    values = compare_arrays(REFERENCE, REFERENCE).to_dict()
    assert values["sqnr_db"] is None
    assert values["max_abs_error"] == 0.0


def test_sqnr_alone_equals_that_of_the_comparison() -> None:
    candidate = REFERENCE * 1.01
    assert sqnr_db(REFERENCE, candidate) == compare_arrays(REFERENCE, candidate).sqnr_db
    assert sqnr_db(REFERENCE, candidate) == pytest.approx(40, abs=1e-4)


def test_outputs_are_compared_by_name() -> None:
    found = compare_outputs({"a": REFERENCE, "b": REFERENCE}, {"b": REFERENCE, "a": REFERENCE * 2})
    assert found["b"].max_abs_error == 0
    assert found["a"].max_abs_error == 4


def test_other_names_or_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="different names: a against b"):
        compare_outputs({"a": REFERENCE}, {"b": REFERENCE})
    with pytest.raises(DataError, match=r"a has the shape \(3, 2\); expected \(2, 3\)"):
        compare_outputs({"a": REFERENCE}, {"a": REFERENCE.T})


def test_top1_accuracy_counts_the_right_samples() -> None:
    assert top1_accuracy(REFERENCE, np.array([1, 0])) == 50.0
    assert top1_accuracy(REFERENCE[:1], np.array([1], np.uint8)) == 100.0


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.array([1]), "do not fit"),
        (np.array([[1, 1]]), "do not fit"),
        (np.array([1, 3]), "run from 1 to 3"),
        (np.array([-1, 0]), "run from -1 to 0"),
        (np.array([0.0, 1.0]), "float64"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        top1_accuracy(REFERENCE, labels)


def test_no_samples_have_no_accuracy() -> None:
    with pytest.raises(DataError, match="at least 1"):
        top1_accuracy(np.zeros((0, 3)), np.zeros(0, np.int64))
