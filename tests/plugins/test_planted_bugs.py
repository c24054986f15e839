"""The checks of the kernels find the mistakes that they are there for.

Each test copies `plugins/`, makes one mistake in the copy, builds it for the emulator and runs a
case through it: a broken rule of the hardware or a wrong result must show.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeattn.spec import AttentionSpec, HeadGroup
from tests.cases import Case
from tests.plugins.kernel_bugs import BUGS, COMMON_BUGS, Bug
from tests.plugins.kernel_copies import copy_kernels, emulated, replace_once
from tests.plugins.kernel_judge import FORMS, judge

# The fused kernel that is compiled for each form; FP32's is no fused one.
FUSED = {"float32": "f16_d32", "float16": "f16_d32", "int8": "int8_d32"}

# Remainders of windows, heads and tiles; padding and labels. In the last group, windows take more
# than one chunk of keys.
_SMALL = (HeadGroup(3, (8, 6), (4, 3), 1), HeadGroup(2, 4, 1))
_GROUPS = (*_SMALL, HeadGroup(1, (16, 5)))
CASES = {
    "windows": Case(
        AttentionSpec(32, 4, _GROUPS, has_bias=True, pad_mode="bias_kv"), 17, 13, batch=2
    ),
    "small": Case(AttentionSpec(32, 4, _SMALL, has_bias=True, pad_mode="bias_kv"), 17, 13),
    "masked": Case(AttentionSpec(32, 4, _GROUPS), 17, 13),
    "shifted": Case(AttentionSpec(32, 2, (HeadGroup(2, 4, 2),)), 8, 12),
    "heads": Case(AttentionSpec(32, 17, (HeadGroup(17, 4),)), 4, 4),
    "cosine": Case(AttentionSpec(32, 4, _GROUPS, qk_mode="cosine"), 17, 13),
    "small_cosine": Case(AttentionSpec(32, 4, _SMALL, qk_mode="cosine"), 17, 13),
    "neighborhood": Case(
        AttentionSpec(32, 2, (HeadGroup(2, (4, 3), mode="neighborhood"),), has_bias=True), 11, 9
    ),
}


@pytest.mark.parametrize(
    "form", ["float16", *(pytest.param(f, marks=pytest.mark.slow) for f in ("float32", "int8"))]
)
def test_a_copy_without_a_bug_passes(tmp_path: Path, form: str) -> None:
    with emulated(copy_kernels(tmp_path, FUSED[form])) as device:
        for case in CASES.values():
            judge(device, case, FORMS[form], seed=1)


@pytest.mark.parametrize(
    "bug",
    [
        *(pytest.param(bug, id=name) for name, bug in COMMON_BUGS.items()),
        *(pytest.param(bug, id=name, marks=pytest.mark.slow) for name, bug in BUGS.items()),
    ],
)
def test_a_planted_bug_is_found(tmp_path: Path, bug: Bug) -> None:
    source = copy_kernels(tmp_path, FUSED[bug.form])
    replace_once(source / bug.file, bug.pattern, bug.replacement)
    with (
        emulated(source) as device,
        pytest.raises(AssertionError, match=bug.found_by),
    ):
        judge(device, CASES[bug.case], FORMS[bug.form], seed=1)
