"""NVIDIA's real Python bindings of TensorRT, without TensorRT.

The wheels `tensorrt-cu12-bindings` hold the extension module alone. It links against three
libraries of which it needs nine C functions; with empty ones in their place it imports, and
everything that needs no live object can be tried: names, signatures, enums, subclassing, the error
path. Nothing here gives results of TensorRT's.

The wheels are NVIDIA's, under its own licence: pip fetches them into a folder that git ignores,
once and about 1 MB each. `make bindings` fetches them ahead, for a machine that is offline later.
Without them the tests that need them are skipped with the reason, unless `--require bindings`
promised them.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[1]
FETCHED = ROOT / "third_party" / "tensorrt_bindings"

# The floor (JetPack 6.1), the last one built for JetPack 6, JetPack 7.0, JetPack 7.2, the newest.
VERSIONS = ("10.3.0", "10.7.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")

# Whether `--require bindings` was given: then what is missing fails a test. Set by conftest.py.
promised = False

_LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
_FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
# What the package `tensorrt` is: a front end that passes on the names of the bindings, by folder.
_FRONT_END = {
    "": "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n",
    "plugin": "from tensorrt_bindings.plugin import *\n",  # from 10.6 on
}


@dataclass(frozen=True)
class Bindings:
    """One version of the bindings.

    Attributes:
        version: As PyPI has it.
        folder: Holds the packages, and the libraries in `lib`.
    """

    version: str
    folder: Path

    def run(self, *arguments: str) -> str:
        """Run this Python where `import tensorrt` gives the bindings; returns what it printed."""
        path = [str(self.folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "LD_LIBRARY_PATH": str(self.folder / "lib"),
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


def bindings(version: str) -> Bindings:
    """Get a version of the bindings, or skip the test that asks where they cannot be had."""
    folder, obstacle = _prepare(version)
    if obstacle:
        _refuse(f"needs NVIDIA's bindings of TensorRT {version} (`make bindings`): {obstacle}")
    return Bindings(version, folder)


def have_bindings() -> bool:
    """Tell whether every version is here or can be fetched."""
    return not first_obstacle()


def first_obstacle() -> str:
    """Tell which version cannot be had and why; nothing if all can."""
    obstacles = ((version, _prepare(version)[1]) for version in VERSIONS)
    return next((f"TensorRT {version}: {why}" for version, why in obstacles if why), "")


def _refuse(reason: str) -> NoReturn:
    if promised:
        pytest.fail(f"--require names bindings, but a test {reason}", pytrace=False)
    pytest.skip(reason)


@functools.cache
def _prepare(version: str) -> tuple[Path, str]:
    """Fetch the wheel unless it is there; returns its folder, and what stands in the way."""
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    folder = FETCHED / f"{version}-{python}-{platform.machine()}"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if folder.is_dir():
        return folder, ""
    if not compiler:
        return folder, "there is no C compiler for the link stubs"
    with alone(folder), tempfile.TemporaryDirectory(dir=FETCHED) as name:
        if folder.is_dir():  # another process was faster
            return folder, ""
        made = Path(name) / "made"
        obstacle = _download(version, Path(name))
        if obstacle:
            return folder, obstacle
        with zipfile.ZipFile(next(Path(name).glob("*.whl"))) as wheel:
            wheel.extractall(made)
        _write_stubs(made / "lib", version.partition(".")[0], compiler)
        for package, text in _FRONT_END.items():
            if (made / "tensorrt_bindings" / package).is_dir():
                front_end = made / "tensorrt" / package / "__init__.py"
                front_end.parent.mkdir(parents=True)
                front_end.write_text(text)
        made.rename(folder)  # whole or not at all
    return folder, ""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time make a folder; the others wait for it."""
    FETCHED.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(version: str, folder: Path) -> str:
    """Let pip fetch the wheel for this Python; returns the last line of its refusal."""
    tags = ("manylinux_2_17", "manylinux_2_28", "manylinux_2_35")
    platforms = [f"--platform={tag}_{platform.machine()}" for tag in tags]
    python = f"--python-version={sys.version_info.major}.{sys.version_info.minor}"
    options = ["--no-deps", "--only-binary=:all:", "--retries=1", "--timeout=10", python]
    wanted = ["--dest", str(folder), f"tensorrt-cu12-bindings=={version}"]
    command = [sys.executable, "-m", "pip", "download", *options, *platforms, *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return (done.stderr.strip().splitlines() or ["pip failed"])[-1] if done.returncode else ""


def _write_stubs(folder: Path, major: str, compiler: str) -> None:
    folder.mkdir()
    source = folder / "stub.c"
    source.write_text("".join(f"void* {name}(void) {{ return 0; }}\n" for name in _FUNCTIONS))
    for library in _LIBRARIES:
        file = f"{library}.so.{major}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", file, source.name]
        subprocess.run(command, cwd=folder, check=True)


def main() -> int:
    """Fetch every version; tell where each is or why it cannot be had."""
    for version in VERSIONS:
        folder, obstacle = _prepare(version)
        print(f"TensorRT {version}: {obstacle or folder}")  # noqa: T201
    return 0 if have_bindings() else 1


if __name__ == "__main__":
    sys.exit(main())
