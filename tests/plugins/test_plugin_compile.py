"""One source of the plugin for every TensorRT from 10.3 on, and what the library shows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgeattn.plugin.kernels import Emulator
from tests.plugins.plugin_builds import (
    ADAPTER_SOURCES,
    HEADER_SETS,
    HOST_SOURCES,
    NO_HEADERS,
    WARNINGS,
    build_host,
    compile_sources,
    header_flags,
)
from tests.plugins.plugin_host import Host, HostCase, fields_of

VERSIONS = list(HEADER_SETS) or [pytest.param("", marks=pytest.mark.skip(reason=NO_HEADERS))]

KERNEL_FUNCTIONS = {"edgeattn_build_info", "edgeattn_check", "edgeattn_variants"} | {
    "edgeattn_window_attention"
}


def symbols(library: Path, kind: str) -> set[str]:
    """List dynamic symbols: `--defined-only` or `--undefined-only`."""
    command = ["nm", "-D", "--format=posix", kind, str(library)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[0] for line in lines if line.split()[1] != "w"}


@pytest.mark.parametrize("version", VERSIONS)
def test_adapter_and_driver_compile_without_a_warning(version: str) -> None:
    flags = [*WARNINGS, "-fsyntax-only", *header_flags(HEADER_SETS[version])]
    compile_sources("g++", *flags, *ADAPTER_SOURCES)
    compile_sources("g++", *flags, *HOST_SOURCES)


def test_library_exports_what_tensorrt_looks_up_and_no_more(plugin: Host) -> None:
    # On emulated kernels the C interface comes from another library.
    assert symbols(plugin.library, "--defined-only") == {"getCreators", "setLoggerFinder"}


def test_library_needs_no_symbol_of_tensorrt(plugin: Host) -> None:
    needed = symbols(plugin.library, "--undefined-only")
    others = {name for name in needed if "@" not in name}  # the C and C++ libraries have versions
    assert others == KERNEL_FUNCTIONS


# The tables of ILogger and ILoggerFinder changed in 11.0: the plugin must call those it was
# compiled for.
@pytest.mark.parametrize(
    "version", sorted({VERSIONS[0], VERSIONS[-1]}) if HEADER_SETS else VERSIONS
)
def test_plugin_talks_to_the_logger_of_its_own_tensorrt(
    version: str, emulator: Emulator, tmp_path: Path
) -> None:
    plugin = build_host(HEADER_SETS[version], emulator.path)
    told = plugin.live(HostCase(fields_of({"head_dim": 8})), tmp_path)
    assert told.errors == ["attribute qkv_heads is missing; expected one integer"]
