"""Derive the table of operators that TensorRT's parser takes: `operators.json` beside its reader.

    python docs/refresh_operators.py FOLDER

FOLDER holds the parser's own lists, one file for each release in `LISTS`, named `10.1.md` and so
on: `docs/operators.md` of onnx/onnx-tensorrt at the commit that stands there, which is the one that
the branch of NVIDIA/TensorRT names as its submodule `parsers/onnx`:

    curl -o FOLDER/10.1.md https://raw.githubusercontent.com/onnx/onnx-tensorrt/COMMIT/docs/operators.md

The table holds facts alone: which operator, from which version on, with which types. What the lists
say of an operator's limits is written as rules in `operator_limits.py`.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

OUTPUT = Path(__file__).parents[1] / "edgeattn" / "engine" / "tensorrt" / "operators.json"

# Release of TensorRT → commit of onnx-tensorrt, and its date.
LISTS = {
    "10.1": ("96e781103cfc4adf4a6bb557e94bac8e693f6f4c", "2024-06-17"),
    "10.14": ("c72727708d4ed8a379c04c4ea235c157ce9c3870", "2025-11-07"),
    "10.16": ("6bde6596eca84abf9afe9b4d21c18c32800fd3ad", "2026-03-24"),
    "11.1": ("7c51a63a719180eb5160c874c111746f3fb46a6b", "2026-07-07"),
}
# What came between two lists, and when: docs/Changelog.md at the commit of 10.16.
CHANGES = {
    "BlackmanWindow": "10.4",
    "HammingWindow": "10.4",
    "HannWindow": "10.4",
    "STFT": "10.5",
    "Constant": "10.8",  # FP4; FP8 and INT4 are older than their mention
    "ConstantOfShape": "10.8",
    "DequantizeLinear": "10.8",
    "Pow": "10.12",
    "Attention": "10.14",
    "RMSNormalization": "10.15",
    "RotaryEmbedding": "10.15",
    "TensorScatter": "10.15",
}
_MISSPELT = {"INF64": "INT64"}


def read_list(text: str) -> tuple[tuple[int, int], dict[str, list[str]]]:
    """Read one list: the opsets it is for, and the types of each operator, none if refused."""
    opsets = re.search(r"range of opset (\d+) to opset (\d+)", text)
    if opsets is None:
        raise SystemExit("a list does not say for which opsets it is")
    operators = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) < 2 or cells[1] not in ("Y", "N"):
            continue
        names = re.findall(r"\w+", cells[2]) if len(cells) > 2 and cells[1] == "Y" else []
        # Windows are made in floating point, which one of the lists leaves out.
        types = [_MISSPELT.get(name, name) for name in names] or ["FP32", "FP16"]
        operators[cells[0]] = types if cells[1] == "Y" else []
    return (int(opsets[1]), int(opsets[2])), operators


def merge(lists: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, str]]:
    """Write for each operator from which version on it has which types."""
    names = sorted({name for operators in lists.values() for name in operators})
    merged: dict[str, dict[str, str]] = {}
    for name in names:
        entry: dict[str, str] = {}
        for version, operators in lists.items():
            types = " ".join(operators.get(name, []))
            if not entry or types != list(entry.values())[-1]:
                entry[CHANGES.get(name, version) if entry else version] = types
        merged[name] = entry
    return merged


def main() -> None:
    """Read the lists and write the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder = parser.parse_args().folder
    read = {version: read_list((folder / f"{version}.md").read_text()) for version in LISTS}
    lists = {
        version: {"commit": commit, "date": date, "opsets": read[version][0]}
        for version, (commit, date) in LISTS.items()
    }
    rows = merge({version: operators for version, (_, operators) in read.items()})
    head = {"source": "onnx/onnx-tensorrt, docs/operators.md and docs/Changelog.md"}
    parts = [
        *(f'  "{key}": {json.dumps(value)},' for key, value in head.items()),
        '  "lists": {',
        ",\n".join(f'    "{version}": {json.dumps(entry)}' for version, entry in lists.items()),
        "  },",
        '  "operators": {',
        ",\n".join(f'    "{name}": {json.dumps(entry)}' for name, entry in rows.items()),
        "  }",
    ]
    OUTPUT.write_text("{\n" + "\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    main()
