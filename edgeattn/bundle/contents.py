"""The files of a bundle while it is put together."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edgeattn.artifacts import json_bytes, open_for_reading, sha256_of_bytes
from edgeattn.bundle.format import LABELS, POSTPROCESS, WEIGHTS, BundleEntry
from edgeattn.bundle.golden import Golden
from edgeattn.errors import DataError
from edgeattn.graph.files import graph_files


class Contents:
    """The files of a bundle, with what the manifest says of them."""

    def __init__(self) -> None:
        self.entries: list[BundleEntry] = []
        self.files: list[tuple[str, bytes | Path]] = []

    def add(self, name: str, role: str, content: bytes | Path) -> None:
        """Take a file; a path is read again when the bundle is written."""
        if isinstance(content, bytes):
            entry = BundleEntry(name, sha256_of_bytes(content), len(content), role)
        else:
            entry = BundleEntry(name, *_hash_and_size(content), role)
        self.entries.append(entry)
        self.files.append((name, content))

    def add_graph(self, folder: str, role: str, path: Path) -> None:
        """Take a graph and its weights, which it calls by their names."""
        first, *weights = graph_files(path)
        self.add(f"{folder}/{role}.onnx", role, first)
        for file in weights:
            self.add(f"{folder}/{file.relative_to(path.parent).as_posix()}", WEIGHTS, file)

    def add_labels(self, path: Path, golden: Golden) -> None:
        """Take the names of classes, and which output they are of.

        Raises:
            DataError: If no output, or more than one, has as many classes.
        """
        with open_for_reading(path) as stream:
            try:
                lines = [line.strip() for line in stream.read().decode().splitlines()]
            except UnicodeDecodeError as err:
                raise DataError(f"the labels {path} are no UTF-8 text: {err}") from err
        names = [line for line in lines if line]
        fitting = [name for name, a in golden.outputs.items() if a.shape[-1:] == (len(names),)]
        if len(fitting) != 1:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in golden.outputs.items())
            raise DataError(
                f"{path} names {len(names)} classes; expected as many as one output has: {shapes}",
                "write one class a line, in the order of the output",
            )
        classes = {"kind": "classification", "output": fitting[0], "labels": "labels.txt"}
        self.add("postprocess.json", POSTPROCESS, json_bytes(classes))
        self.add("labels.txt", LABELS, "".join(f"{name}\n" for name in names).encode())


def _hash_and_size(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with open_for_reading(path) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size
