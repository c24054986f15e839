"""The TensorRT plugin and its host driver: compiled, told what to do, and listened to.

`plugins/tests/plugin_host.cpp` drives a plugin through TensorRT's interface without TensorRT. Here
it is compiled against TensorRT's public headers, with a plugin on the emulated kernels; what it is
told is a text file, and what happened comes back as lines.

Headers are looked for in `TENSORRT_INCLUDE_DIR` (by default `third_party/tensorrt`): a folder with
`NvInfer.h`, or one with a folder for each version that holds them in `include/`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn.plugin.cache import cache_folder, locked
from edgeattn.plugin.source import source_sha256
from edgeattn.plugin.tensorrt_headers import find_headers
from edgeattn.plugin.toolchain import find_nvcc
from edgeattn.spec import ATTRIBUTE_KINDS, AttentionSpec

ROOT = Path(__file__).parents[2]
PLUGINS = ROOT / "plugins"
ADAPTER_SOURCES = sorted((PLUGINS / "trt").glob("*.cpp"))
HOST_SOURCES = [
    PLUGINS / "tests/plugin_host.cpp",
    *sorted((PLUGINS / "tests/plugin_host").glob("*.cpp")),
]
WARNINGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror")

REFUSED = 3  # exit code of the driver where the plugin said no

FIELD_TYPES = {"int": "int32", "float": "float32", "int[]": "int32"}


# --- headers --------------------------------------------------------------------------------------


def find_header_sets() -> dict[str, Path]:
    """List the folders of TensorRT headers by version, oldest first."""
    root = Path(os.environ.get("TENSORRT_INCLUDE_DIR") or ROOT / "third_party/tensorrt")
    folders: list[Path | None] = [root] if (root / "NvInfer.h").is_file() else []
    folders = folders or [*root.glob("*/include")] or [None]  # None: where packages put them
    found = [find_headers(folder, platform.machine()) for folder in folders]
    headers = sorted((one for one in found if one), key=lambda one: one.version)
    return {one.version_text: one.folder for one in headers}


HEADER_SETS = find_header_sets()
NO_HEADERS = "no TensorRT headers: set TENSORRT_INCLUDE_DIR to the folder of NvInfer.h"


def header_flags(headers: Path) -> list[str]:
    """Name the folders of TensorRT's and CUDA's headers, or skip the test where CUDA's are not."""
    nvcc = find_nvcc()
    cuda = nvcc.root / "include" if nvcc else Path("/usr/local/cuda/include")
    if not (cuda / "cuda_runtime_api.h").is_file():
        pytest.skip("no CUDA headers: TensorRT's need cuda_runtime_api.h")
    return ["-isystem", str(headers), "-isystem", str(cuda), f"-I{PLUGINS / 'include'}"]


def newest_headers() -> Path:
    """Give the newest headers, or skip the test where there are none."""
    if not HEADER_SETS:
        pytest.skip(NO_HEADERS)
    return list(HEADER_SETS.values())[-1]


# --- compilation ----------------------------------------------------------------------------------


def compile_sources(*arguments: str | Path) -> None:
    """Run g++, and fail with what it says."""
    done = subprocess.run(
        ["g++", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def build_host(headers: Path, kernels: Path) -> Host:
    """Compile the adapter on emulated kernels, and the driver, for this machine's CPU."""
    flags = [*WARNINGS, "-O1", *header_flags(headers)]
    library = _build(
        "libedgeattn_plugin.so",
        *flags,
        *["-fPIC", "-shared", "-fvisibility=hidden", "-Wl,--no-undefined"],
        f"-Wl,--version-script={PLUGINS / 'trt/exports.map'}",
        *ADAPTER_SOURCES,
        kernels,
        f"-Wl,-rpath,{kernels.parent}",
    )
    program = _build("plugin_host", *flags, "-DEDGEATTN_EMULATOR", *HOST_SOURCES, "-ldl")
    return Host(program, library)


def _build(name: str, *arguments: str | Path) -> Path:
    """Compile once for the sources and arguments as they are, also under several processes."""
    words = [str(argument) for argument in arguments]
    sources = source_sha256(PLUGINS, ("include", "trt", "tests"))
    key = hashlib.sha256("\n".join([sources, *words]).encode()).hexdigest()[:16]
    target = cache_folder() / "plugin-tests" / key / name
    with locked(target.parent.parent / f"{key}.lock"):
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_suffix(".unfinished")
            compile_sources(*words, "-o", unfinished)
            unfinished.replace(target)
    return target


# --- the driver -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transcript:
    """What the driver told.

    Args:
        exit_code: 0 if all went well, `REFUSED` if the plugin said no.
        lines: Facts, each a word and what it says.
        stderr: What came on the other stream.
    """

    exit_code: int
    lines: list[tuple[str, str]]
    stderr: str

    def of(self, key: str) -> list[str]:
        """Give what the lines of a kind say."""
        return [text for word, text in self.lines if word == key]

    @property
    def errors(self) -> list[str]:
        """The plugin's error messages, without its name."""
        prefix = "ERROR MultiScaleWindowAttention layer_7: "
        assert all(text.startswith(prefix) for text in self.of("log") if text.startswith("ERROR"))
        return [text.removeprefix(prefix) for text in self.of("log") if text.startswith(prefix)]


@dataclass
class HostCase:
    """What the driver is told to do.

    Args:
        fields: The node's attributes: name, type and values.
        inputs: Names, types and arrays of the inputs beside `qkv`.
        qkv: Type and channels of `qkv`; `None` to create the plugin and no more.
        size_range: Shortest, most common and largest `(B, H, W)`; by default those of the runs.
        runs: The `qkv` of each call, in the engine's life time.
        all_tactics: Build and run an engine with every tactic.
        replaced: Fields of the engine, put in the place of its own.
        lost: Fields of the engine that are taken out.
    """

    fields: list[tuple[str, str, Sequence[Any]]]
    inputs: list[tuple[str, str, np.ndarray]] = field(default_factory=list)
    qkv: tuple[str, int] | None = None
    size_range: tuple[tuple[int, int, int], ...] = ()
    runs: list[np.ndarray] = field(default_factory=list)
    all_tactics: bool = False
    replaced: list[tuple[str, str, Sequence[Any]]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Write the case and its tensors; give the path of the case."""
        lines: list[tuple[Any, ...]] = [("field", n, t, *map(_text, v)) for n, t, v in self.fields]
        if self.qkv:
            lines.append(("qkv", *self.qkv))
        for name, dtype, array in self.inputs:
            lines.append(("input", name, dtype, _save(folder / name, array), *array.shape))
        sizes = [run.shape[:3] for run in self.runs] or [(1, 8, 8)]
        size_range = self.size_range or (
            tuple(np.min(sizes, axis=0)), sizes[0], tuple(np.max(sizes, axis=0))
        )  # fmt: skip
        lines.append(("range", *(extent for size in size_range for extent in size)))
        for i, run in enumerate(self.runs):
            qkv = _save(folder / f"qkv{i}", run)
            lines.append(("run", *run.shape[:3], qkv, folder / f"out{i}"))
        lines += [("engine", n, t, *map(_text, v)) for n, t, v in self.replaced]
        lines += [("lost", name) for name in self.lost]
        lines += [("tactics", "all")] if self.all_tactics else []
        path = folder / "case"
        path.write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
        return path


@dataclass(frozen=True)
class Host:
    """A plugin library and the driver that was compiled for the same headers."""

    program: Path
    library: Path

    def introduce(self) -> Transcript:
        """Let the creator tell its names and fields."""
        return self._listen()

    def live(self, case: HostCase, folder: Path, *, with_logger: bool = True) -> Transcript:
        """Let the plugin live through a case; every rule of the interface is kept, or it fails."""
        transcript = self._listen(
            *([] if with_logger else ["--silent"]), str(case.write(folder))
        )  # fmt: skip
        assert transcript.exit_code in (0, REFUSED), transcript
        return transcript

    def outputs(
        self, case: HostCase, folder: Path, shape: Sequence[int], dtype: np.dtype[Any]
    ) -> dict[int, np.ndarray]:
        """Give the outputs of a case's only run by tactic; 0 is the library's choice."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        transcript = self.live(case, folder)
        assert transcript.exit_code == 0, transcript
        outputs = {}
        for text in transcript.of("ran"):
            tactic = Path(text).suffix.removeprefix(".")
            outputs[int(tactic or 0)] = np.fromfile(text, np.uint8).view(dtype).reshape(shape)
        return outputs

    def _listen(self, *arguments: str) -> Transcript:
        command = [str(self.program), str(self.library), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        parts = [line.partition(" ") for line in done.stdout.splitlines()]
        lines = [(word, text) for word, _, text in parts]
        return Transcript(done.returncode, lines, done.stderr)


def fields_of(attributes: Mapping[str, Any]) -> list[tuple[str, str, Sequence[Any]]]:
    """Turn a node's attributes into fields of the types that the ONNX parser gives them."""
    return [
        (name, FIELD_TYPES[ATTRIBUTE_KINDS[name]], value if isinstance(value, list) else [value])
        for name, value in attributes.items()
    ]


def case_of(
    spec: AttentionSpec, in_type: str, tensors: Mapping[str, np.ndarray], **options: Any
) -> HostCase:
    """Make a case of a spec and the tensors of one run."""
    inputs = [(name, "float32", array) for name, array in tensors.items() if name != "qkv"]
    return HostCase(
        fields_of(spec.to_attributes()),
        inputs,
        (in_type, spec.qkv_channels),
        runs=[tensors["qkv"]],
        **options,
    )


def _text(value: Any) -> str:
    return repr(float(value)) if isinstance(value, float) else str(value)


def _save(path: Path, array: np.ndarray) -> Path:
    path.write_bytes(np.ascontiguousarray(array).tobytes())
    return path
