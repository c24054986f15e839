"""How the processor waits for the GPU: it moves what a caller waits by tens of microseconds.

References:
    cuda.h, `CUctx_flags_enum` and `cuDevicePrimaryCtxGetState`: the flags of the primary context
    decide for `cuStreamSynchronize`. Left to the driver (`CU_CTX_SCHED_AUTO`), it spins unless the
    process has more contexts than the machine has processors; on a Tegra it may block, by the
    power profile.
"""

from __future__ import annotations

from ctypes import byref, c_int, c_uint

from edgeattn.errors import PluginError
from edgeattn.plugin.driver import open_driver

_SCHEDULE_MASK = 0x07
_WAYS = {0x01: "spin", 0x02: "yield", 0x04: "block"}


def describe_waiting(device: int, *, is_integrated: bool) -> str:
    """Say how `cuStreamSynchronize` waits in the primary context of a GPU.

    Args:
        device: The GPU.
        is_integrated: Whether it is an integrated one, as on a Jetson.

    Returns:
        Empty if the driver does not tell.
    """
    flags, is_active = c_uint(), c_int()
    try:
        driver = open_driver()
        if driver is None:
            return ""
        handle = driver.integer("cuDeviceGet", device)
        driver.call("cuDevicePrimaryCtxGetState", handle, byref(flags), byref(is_active))
    except PluginError:  # an engine that runs is not given up for a word in a report
        return ""
    choice = "spin or block" if is_integrated else "spin"
    return _WAYS.get(flags.value & _SCHEDULE_MASK, f"{choice} (the driver's choice)")
