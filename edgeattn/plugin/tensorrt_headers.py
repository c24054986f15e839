"""TensorRT's headers: where they are and of which version.

The plugin is compiled against headers alone; TensorRT itself need not be installed.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeattn.artifacts import open_for_reading
from edgeattn.errors import PluginError

HEADER_HINT = (
    "TensorRT's headers come with its packages (libnvinfer-headers-dev), and are public in the "
    "folder `include` of github.com/NVIDIA/TensorRT, one branch per release"
)
# IPluginV3 as the plugin uses it came with 10.0; 10.3 is what JetPack 6.1 has.
OLDEST, NEWEST_MAJOR = (10, 3), 11


@dataclass(frozen=True)
class Headers:
    """A folder of TensorRT's headers.

    Attributes:
        folder: Where `NvInfer.h` is.
        version: Such as (10, 3, 0).
    """

    folder: Path
    version: tuple[int, int, int]

    @property
    def major(self) -> int:
        """Major version: a plugin library is for one of them."""
        return self.version[0]

    @property
    def version_text(self) -> str:
        """The version as TensorRT writes it: `10.3.0`."""
        return ".".join(map(str, self.version))


def find_headers(folder: Path | None, machine: str) -> Headers | None:
    """Find TensorRT's headers.

    Args:
        folder: Where `NvInfer.h` is; `None` to look where TensorRT's packages put it.
        machine: What the plugin is for: the headers of another machine's TensorRT are not its own.

    Returns:
        `None` if no folder is given and they are not installed.

    Raises:
        PluginError: If the folder given does not hold them, or they are of another version than
            the plugin is written for.
    """
    if folder is not None:
        if not (folder / "NvInfer.h").is_file():
            raise PluginError(f"there is no NvInfer.h in {folder}", HEADER_HINT)
        return _read(folder)
    for candidate in _standard_folders(machine):
        if (candidate / "NvInfer.h").is_file():
            return _read(candidate)
    return None


def _standard_folders(machine: str) -> Iterator[Path]:
    yield Path(f"/usr/include/{machine}-linux-gnu")
    if machine == platform.machine():
        if "TENSORRT_ROOT" in os.environ:
            yield Path(os.environ["TENSORRT_ROOT"]) / "include"
        yield from (Path("/usr/include"), Path("/usr/local/tensorrt/include"))


def _read(folder: Path) -> Headers:
    with open_for_reading(folder / "NvInferVersion.h") as stream:
        text = stream.read().decode(errors="replace")
    defined: dict[str, str] = dict(re.findall(r"^#define (\w+) (\w+)", text, re.MULTILINE))
    numbers = []
    for name in ("MAJOR", "MINOR", "PATCH"):
        value = defined.get(f"NV_TENSORRT_{name}", "")
        value = defined.get(value, value)  # from 10.13 on, the name of another macro
        if not value.isdecimal():
            raise PluginError(f"{folder}/NvInferVersion.h does not tell TensorRT's version")
        numbers.append(int(value))
    major, minor, patch = numbers
    headers = Headers(folder.resolve(), (major, minor, patch))
    if headers.version < OLDEST or major > NEWEST_MAJOR:
        raise PluginError(
            f"the headers in {folder} are of TensorRT {headers.version_text}; "
            f"the plugin is written for {OLDEST[0]}.{OLDEST[1]} to {NEWEST_MAJOR}"
        )
    return headers
