"""The oracle against a second implementation that shares nothing with it but the spec."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from tests import classic, oracle
from tests.cases import NAMED_CASES, Case, cases


def _agree(case: Case) -> None:
    tensors = case.tensors()
    expected = classic.attention(case.spec, **tensors)
    np.testing.assert_allclose(oracle.attention(case.spec, **tensors), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", NAMED_CASES.values(), ids=NAMED_CASES)
def test_oracle_equals_roll_pad_partition_mask_code(case: Case) -> None:
    _agree(case)


@settings(max_examples=300)
@given(cases())
def test_oracle_equals_roll_pad_partition_mask_code_on_drawn_cases(case: Case) -> None:
    _agree(case)
