"""How the processor waits for the GPU, told by a driver whose answers are scripted."""

from __future__ import annotations

from typing import Any

import pytest

from edgeattn.engine.tensorrt import waiting
from edgeattn.engine.tensorrt.waiting import describe_waiting
from edgeattn.errors import PluginError
from edgeattn.plugin.driver import Driver, open_driver

BY_DRIVER = "(the driver's choice)"


class Library:
    """Plays `libcuda.so.1` for two calls; the primary context of GPU 3 has the flags given."""

    def __init__(self, flags: int, status: int = 0) -> None:
        self._flags, self._status = flags, status

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:  # noqa: N802
        device._obj.value = 100 + ordinal
        return 0

    def cuDevicePrimaryCtxGetState(self, dev: int, flags: Any, active: Any) -> int:  # noqa: N802
        assert dev == 103
        flags._obj.value, active._obj.value = self._flags, 1
        return self._status

    def cuGetErrorString(self, error: int, text: Any) -> int:  # noqa: N802
        return 0


@pytest.mark.parametrize(
    ("flags", "is_integrated", "said"),
    [
        (0x00, False, f"spin {BY_DRIVER}"),
        (0x00, True, f"spin or block {BY_DRIVER}"),
        (0x08, False, f"spin {BY_DRIVER}"),  # CU_CTX_MAP_HOST alone says nothing of it
        (0x01, True, "spin"),
        (0x0A, False, "yield"),
        (0x14, True, "block"),
    ],
)
def test_the_flags_of_the_primary_context_are_put_into_words(
    flags, is_integrated, said, monkeypatch
):
    monkeypatch.setattr(waiting, "open_driver", lambda: Driver(Library(flags)))  # type: ignore[arg-type]
    assert describe_waiting(3, is_integrated=is_integrated) == said


def test_a_driver_that_does_not_tell_leaves_it_open(monkeypatch):
    def broken() -> None:
        raise PluginError("the NVIDIA driver does not start")

    for answer in (lambda: None, broken, lambda: Driver(Library(1, status=101))):  # type: ignore[arg-type]
        monkeypatch.setattr(waiting, "open_driver", answer)
        assert describe_waiting(3, is_integrated=False) == ""


@pytest.mark.gpu
def test_the_driver_here_tells():
    driver = open_driver()
    assert driver is not None
    assert describe_waiting(0, is_integrated=False)
