"""What a board's environment needs besides edgeattn itself: it follows from what the board has.

TensorRT comes from the board's own packages, never from pip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeattn.deploy.software import NUMPY_2
from edgeattn.engine.tensorrt.versions import TensorRtVersion


@dataclass(frozen=True)
class Requirements:
    """What pip is asked for.

    Attributes:
        extras: Extras of edgeattn.
        packages: Other packages with their versions.
    """

    extras: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


def board_requirements(facts: Mapping[str, Any], *, is_signed: bool = False) -> Requirements:
    """Choose the packages.

    Args:
        facts: `tensorrt` and `cuda` of the board, as `onboard.facts` tells them.
        is_signed: Whether the board checks a signature.

    Returns:
        Nothing more than edgeattn where there is neither TensorRT nor a signature. For TensorRT
        what compiles and checks the plugin, pycuda, cuda-python no newer than the driver's CUDA,
        and a NumPy that TensorRT's bindings read.
    """
    signatures = ["cryptography>=42"] * is_signed  # the extra `deploy`
    if not facts["tensorrt"]:
        return Requirements(packages=tuple(signatures))
    version = TensorRtVersion.parse(facts["tensorrt"])
    packages = ["pycuda>=2024.1"]
    if (version.major, version.minor) < NUMPY_2:
        packages.append("numpy<2")
    major, _, minor = facts["cuda"].partition(".")
    if major and minor:
        packages.append(f"cuda-python>={major},<{major}.{int(minor) + 1}")
    return Requirements(("plugin",), (*packages, *signatures))
