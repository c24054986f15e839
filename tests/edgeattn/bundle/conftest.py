"""A small bundle for each test to copy, and the files that it was made from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeattn.bundle.install import build_from_bundle
from edgeattn.bundle.write import write_bundle
from tests.edgeattn.bundle.bundles import write_keys
from tests.graphs import classifier
from tests.graphs import save as save_graph


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `net.onnx`, its bundle `net.zip`, signed `signed.zip`, and `sealed.engine`."""
    folder = tmp_path_factory.mktemp("made")
    graph = save_graph(classifier(batch=2), folder / "net.onnx")
    write_bundle(graph, engine="cpu")
    key = write_keys(folder, Ed25519PrivateKey.generate())
    (folder / "labels.txt").write_text("cat\ndog\nowl\n")
    write_bundle(graph, folder / "signed.zip", key=key, labels=folder / "labels.txt", engine="cpu")
    build_from_bundle(folder / "net.zip", folder / "sealed.engine")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of `made` that a test may change."""
    return shutil.copytree(made, tmp_path / "work")


@pytest.fixture
def bundle(folder: Path) -> Path:
    """The unsigned bundle."""
    return folder / "net.zip"
