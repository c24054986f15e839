"""The native source: its hash, and that a package carries all of it and nothing else."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from edgeattn.plugin.source import SOURCE_FOLDERS, package_version, plugin_source, source_sha256

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[3]


def test_the_hash_is_that_of_what_sha256sum_prints(tmp_path: Path) -> None:
    for name in ("include/b.h", "include/a/z.h", "launch/k.cu", "trt/p.cpp", "tests/t.cpp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    names = ["include/a/z.h", "include/b.h", "launch/k.cu", "trt/p.cpp"]
    printed = subprocess.run(
        ["sha256sum", *names], cwd=tmp_path, check=True, capture_output=True
    ).stdout
    assert source_sha256(tmp_path) == hashlib.sha256(printed).hexdigest()
    (tmp_path / "tests/t.cpp").write_text("another test changes no library")
    assert source_sha256(tmp_path) == hashlib.sha256(printed).hexdigest()
    (tmp_path / "trt/p.cpp").write_text("another source does")
    assert source_sha256(tmp_path) != hashlib.sha256(printed).hexdigest()


def test_the_version_is_the_packages() -> None:
    import edgeattn

    assert package_version() == edgeattn.__version__


def test_the_source_of_a_checkout_is_beside_the_package() -> None:
    assert plugin_source() == ROOT / "plugins"
    assert all((plugin_source() / name).is_dir() for name in SOURCE_FOLDERS)


def test_a_package_carries_each_file_of_the_source_and_no_build_beside_it() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    carried = [name for name in build["force-include"] if name.startswith("plugins")]
    listed = subprocess.run(
        ["git", "ls-files", "plugins"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    left_out = {
        name
        for name in listed.stdout.split()
        if not any(name == one or name.startswith(f"{one}/") for one in carried)
    }
    assert left_out <= {"plugins/.clang-format", "plugins/README.md"}
    assert "plugins" not in carried  # would take plugins/build along
