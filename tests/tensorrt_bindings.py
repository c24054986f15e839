"""NVIDIA's real Python bindings of TensorRT, without TensorRT.

The wheels `tensorrt-cu12-bindings` hold the extension module alone. It links against three
libraries of which it needs nine C functions; with empty ones in their place it imports, and
everything that needs no live object can be tried: names, signatures, enums, subclassing, the error
path. Nothing here gives results of TensorRT's.

The wheels are NVIDIA's, under its own licence: pip fetches them into a folder that git ignores.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FETCHED = ROOT / "third_party" / "tensorrt_bindings"

# The floor (JetPack 6.1), the newest 10 (JetPack 7.2) and the newest.
VERSIONS = ("10.3.0", "10.16.1.11", "11.4.0.106")

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
        assert done.returncode == 0, done.stderr
        return done.stdout


def bindings(version: str) -> Bindings:
    """Get a version of the bindings, or skip the test that asks where they cannot be had."""
    folder, obstacle = _prepare(version)
    if obstacle:
        pytest.skip(f"needs NVIDIA's bindings of TensorRT {version}: {obstacle}")
    return Bindings(version, folder)


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
    FETCHED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FETCHED) as name:
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
        try:
            made.rename(folder)  # whole or not at all; another process may have been faster
        except OSError:
            assert folder.is_dir()
    return folder, ""


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
