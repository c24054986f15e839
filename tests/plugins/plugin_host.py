"""The driver of the TensorRT plugin: told what to do, and listened to.

`plugins/tests/plugin_host.cpp` drives a plugin through TensorRT's interface without TensorRT. What
it is told is a text file (`plugins/tests/plugin_host/case_file.h`), and what happened comes back as
lines.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgeattn.spec import ATTRIBUTE_KINDS, AttentionSpec

REFUSED = 3  # exit code of the driver where the plugin said no

FIELD_TYPES = {"int": "int32", "float": "float32", "int[]": "int32"}


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
    """A plugin library and the driver that was compiled for the same headers.

    Args:
        program: The driver.
        library: The plugin.
        is_cuda: Kernels run on a GPU, plainly and from a captured graph.
    """

    program: Path
    library: Path
    is_cuda: bool = False

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
        told = self.live(case, folder)
        assert told.exit_code == 0, told
        ran = told.of("ran")
        # Once as the builder measures it and once in the engine.
        assert len(told.of("captured")) == (2 * len(ran) if self.is_cuda else 0)
        suffixes = [Path(path).suffix.removeprefix(".") for path in ran]
        return {
            int(suffix or 0): np.fromfile(path, np.uint8).view(dtype).reshape(shape)
            for suffix, path in zip(suffixes, ran, strict=True)
        }

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
