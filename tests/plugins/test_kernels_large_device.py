"""The kernels as a GPU of many multiprocessors runs them: many short items of work.

How much a CTA takes on depends on the device. The emulator has one multiprocessor, so that a CTA
takes window after window even in small cases; here the same source believes in many.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.cases import NAMED_CASES
from tests.plugins.kernel_cases import KERNEL_CASES, SLOW_CASES, case_of
from tests.plugins.kernel_copies import copy_kernels, emulated, replace_once
from tests.plugins.kernel_device import EmulatedDevice
from tests.plugins.kernel_judge import FORMS, judge

# One per way of sharing work out.
COMMON_CASES = {
    "eight_groups_of_all_modes",
    "cosine_padded",
    "many_small_windows",
    "window_7_dim_32",
    "window_12_dim_64",
    "neighborhood_of_49",
}


@pytest.fixture(scope="module")
def large_device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedDevice]:
    """Build the kernels for 1000 multiprocessors with as little shared memory as sm_86 has."""
    source = copy_kernels(tmp_path_factory.mktemp("large_device"))
    device_size = source / "emulator" / "launch_emulated.h"
    orin, large = "{1, 164 << 10, 163 << 10}", "{1000, 100 << 10, 99 << 10}"
    replace_once(device_size, re.escape(orin), large)
    with emulated(source) as device:
        yield device


def test_work_is_shared_out_among_more_ctas(large_device: EmulatedDevice, emulator) -> None:
    case = KERNEL_CASES["many_small_windows"]
    counts = []
    for device in (EmulatedDevice(emulator), large_device):
        device.library.take_statistics()
        judge(device, case, FORMS["float16"])
        counts.append(device.library.take_statistics()["ctas"])
    assert counts[1] > counts[0]


@pytest.mark.parametrize("form", [form for form in FORMS if form != "float32"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in COMMON_CASES else pytest.mark.slow)
        for name in (*NAMED_CASES, *KERNEL_CASES)
        if name not in SLOW_CASES
    ],
)
def test_every_variant_computes_exact_attention(
    large_device: EmulatedDevice, name: str, form: str
) -> None:
    judge(large_device, case_of(name, FORMS[form].in_type), FORMS[form], seed=3)
