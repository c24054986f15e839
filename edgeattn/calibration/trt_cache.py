"""TensorRT's calibration cache: the text in which its calibrators keep one scale per tensor.

    TRT-100300-EntropyCalibration2
    input: 3c010a14
    /layer/Conv_output_0: 3d12fbbe

The header names the version that wrote it and its algorithm; a line is a tensor's name, `": "` and
the bits of its scale (amax / 127, float32, big-endian). Names may hold spaces and colons. TensorRT
10 and older read such a file for INT8 without Q/DQ (`trtexec --int8 --calib=FILE`, DLA). It says
nothing of the weights and the data that it was made of.

References:
    The format: NVIDIA/TensorRT release/7.1, samples/opensource/sampleINT8/README.md. The header's
    number: `NV_TENSORRT_VERSION` of NvInferVersion.h; another version's header is not accepted
    ("Calibration table does not match calibrator algorithm type").
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeattn.artifacts import open_for_reading, write_bytes
from edgeattn.calibration.table import CalibTable, TensorRange
from edgeattn.errors import SpecError, TableError

# What TensorRT calls the algorithms of its two calibrators, by our names.
ALGORITHMS = {"entropy": "EntropyCalibration2", "minmax": "MinMaxCalibration"}

_HEADER = re.compile(rf"TRT-(?P<version>\d+)-(?P<algorithm>{'|'.join(ALGORITHMS.values())})")
_LINE = re.compile(r"(?P<name>.+): (?P<bits>[0-9a-fA-F]{8})")
_HINT = "let TensorRT write it again, or leave it out and calibrate the graph"


@dataclass(frozen=True)
class TrtCalibCache:
    """The content of a calibration cache.

    Attributes:
        version: TensorRT's version as the header has it: `100300` for 10.3.0.
        algorithm: `EntropyCalibration2` or `MinMaxCalibration`.
        quant_scales: Real value of one integer step of each tensor, in the file's order.
    """

    version: str
    algorithm: str
    quant_scales: Mapping[str, float]

    @property
    def header(self) -> str:
        """The first line."""
        return f"TRT-{self.version}-{self.algorithm}"

    def to_bytes(self) -> bytes:
        """Write the text.

        Raises:
            TableError: If a tensor's name cannot stand on one line.
        """
        lines = [self.header]
        for name, quant_scale in self.quant_scales.items():
            if not name or "\n" in name:
                raise TableError(
                    f"the tensor {name!r} cannot stand in a calibration cache: its name is not a "
                    "line of text",
                    "rename it in the graph, and calibrate again",
                )
            lines.append(f"{name}: {struct.pack('>f', quant_scale).hex()}")
        return ("\n".join(lines) + "\n").encode()

    def save(self, path: Path | str) -> Path:
        """Write a file atomically.

        Raises:
            ArtifactError: If the folder is not writable.
            TableError: As `to_bytes`.
        """
        write_bytes(Path(path), self.to_bytes())
        return Path(path)

    @classmethod
    def from_bytes(cls, data: bytes, source: str) -> TrtCalibCache:
        """Read the text.

        Args:
            data: All of the file.
            source: Its name, for the message.

        Raises:
            TableError: If it is no such text, names a tensor twice, or holds a scale that is not
                positive and finite.
        """
        try:
            lines = data.decode().split("\n")
        except UnicodeDecodeError as err:
            raise TableError(f"{source} is not a calibration cache: it is not text", _HINT) from err
        header = _HEADER.fullmatch(lines[0])
        if not header:
            raise TableError(
                f"the first line of {source} is {_quoted(lines[0])}; expected TRT-<version>- and "
                f"{' or '.join(ALGORITHMS.values())}",
                "only caches of these two calibrators have one scale per tensor",
            )
        if not lines[-1]:
            lines.pop()
        if not lines[1:]:
            raise TableError(f"the calibration cache {source} holds no tensor", _HINT)
        return cls(header["version"], header["algorithm"], _read_scales(lines, source))

    @classmethod
    def load(cls, path: Path | str) -> TrtCalibCache:
        """Read a file.

        Raises:
            ArtifactError: If it is missing or unreadable.
            TableError: As `from_bytes`.
        """
        with open_for_reading(Path(path)) as stream:
            return cls.from_bytes(stream.read(), str(path))


def trt_cache_from_table(
    table: CalibTable, tensorrt: str, algorithm: str = "entropy"
) -> TrtCalibCache:
    """Turn a table into what a calibrator of TensorRT 10 would have kept.

    Args:
        table: A calibration table.
        tensorrt: Version of TensorRT that shall read it: `10.3` or `10.13.3`, from 10.0 on.
        algorithm: The calibrator that shall read it: `entropy`, which is trtexec's, or `minmax`.
            It accepts a cache of its own kind alone, however the scales were found.

    Raises:
        SpecError: If TensorRT of that version reads no cache, or the algorithm is unknown.
    """
    if algorithm not in ALGORITHMS:
        raise SpecError(f"the calibrator is {algorithm!r}", f"use {' or '.join(ALGORITHMS)}")
    return TrtCalibCache(_header_version(tensorrt), ALGORITHMS[algorithm], table.quant_scales)


def _read_scales(lines: list[str], source: str) -> dict[str, float]:
    scales: dict[str, float] = {}
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        match = _LINE.fullmatch(line)
        if not match:
            raise TableError(
                f"line {number} of {source} is {_quoted(line)}; expected a name, ': ' and eight "
                "hexadecimal digits",
                _HINT,
            )
        name = match["name"]
        if name in scales:
            raise TableError(
                f"the tensor {name} stands twice in {source}, on lines {numbers[name]} and "
                f"{number}",
                _HINT,
            )
        (scale,) = struct.unpack(">f", bytes.fromhex(match["bits"]))
        try:
            TensorRange.from_quant_scale(scale)
        except ValueError as err:
            raise TableError(
                f"the scale of {name} on line {number} of {source} is {scale:g}; expected a "
                "positive one of a finite range",
                _HINT,
            ) from err
        scales[name], numbers[name] = scale, number
    return scales


def _header_version(tensorrt: str) -> str:
    """Write a version as the header does: 10.13.3 is 101303."""
    match = re.fullmatch(r"(\d+)\.(\d{1,2})(?:\.(\d{1,2}))?(?:\.\d+)?", tensorrt)
    if not match:
        raise SpecError(
            f"the version of TensorRT is {tensorrt!r}; expected one like 10.3 or 10.13.3",
            "`dpkg -s libnvinfer10` or tensorrt.__version__ tells it",
        )
    major, minor, patch = (int(number or 0) for number in match.groups())
    if major != 10:
        raise SpecError(
            f"a calibration cache for TensorRT {tensorrt} is of no use: edgeattn writes those of "
            "10, and 11 reads none",
            "quantize the graph instead: its Q/DQ nodes serve every version",
        )
    return f"{major * 10000 + minor * 100 + patch}"


def _quoted(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + "…")
