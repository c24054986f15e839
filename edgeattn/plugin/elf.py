"""What a shared library says of itself on disk: nothing is loaded, no code of it runs.

So a library of another machine, or one that nobody trusts yet, can be looked at.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.artifacts import open_for_reading
from edgeattn.errors import MissingDependencyError, PluginError

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

_MACHINES = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
# launch/build_info.cpp and trt/plugin_info.cpp put a JSON object there.
_BUILD_INFO, _PLUGIN_INFO = ".edgeattn.build_info", ".edgeattn.plugin_info"
_FATBIN = ".nv_fatbin"


@dataclass(frozen=True)
class ElfLibrary:
    """A shared library, read.

    Attributes:
        machine: Processor that it is for, as `uname -m` says it.
        exports: Functions and data that it offers.
        undefined: What it needs of others, by name: the library that the linker found it in, empty
            if none was named. What the system may leave out (weak symbols) is not listed.
        needed: Libraries that are loaded with it.
        glibc: The oldest C library that it runs with, such as `2.34`; empty if it does not say.
        has_device_code: There is code for GPUs in it.
        build_info: What it says of its kernels; `None` if it is no library of edgeattn.
        plugin_info: What it says of its TensorRT plugin; `None` if it is no plugin.
    """

    machine: str
    exports: frozenset[str]
    undefined: dict[str, str]
    needed: tuple[str, ...]
    glibc: str
    has_device_code: bool
    build_info: dict[str, Any] | None
    plugin_info: dict[str, Any] | None


def read_library(path: Path) -> ElfLibrary:
    """Read a shared library without loading it.

    Raises:
        ArtifactError: If the file is missing or unreadable.
        PluginError: If it is no shared library of Linux.
        MissingDependencyError: If pyelftools is not installed.
    """
    try:
        from elftools.elf.elffile import ELFFile
    except ImportError as err:
        raise MissingDependencyError(
            "reading a library needs pyelftools, which is not installed",
            'pip install "edgeattn[plugin]"',
        ) from err
    with open_for_reading(path) as stream:
        try:
            return _read(ELFFile(stream), path)
        except PluginError:
            raise
        except Exception as err:  # a damaged file leads pyelftools anywhere
            raise PluginError(
                f"{path} is no whole shared library: {err or type(err).__name__}",
                "make the file again, or check the path",
            ) from err


def _read(elf: ELFFile, path: Path) -> ElfLibrary:
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
    from elftools.elf.sections import SymbolTableSection

    symbols = elf.get_section_by_name(".dynsym")
    dynamic = elf.get_section_by_name(".dynamic")
    if elf["e_type"] != "ET_DYN" or not isinstance(symbols, SymbolTableSection):
        raise PluginError(f"{path} is an ELF file, but no shared library")
    # By index: which library a version of symbols comes from, and the version.
    versions: dict[int, tuple[str, str]] = {}
    needs = elf.get_section_by_name(".gnu.version_r")
    if isinstance(needs, GNUVerNeedSection):
        for need, entries in needs.iter_versions():
            versions |= {entry["vna_other"]: (need.name, entry.name) for entry in entries}
    indices = elf.get_section_by_name(".gnu.version")
    exports, undefined = set(), {}
    for number, symbol in enumerate(symbols.iter_symbols()):
        binding = symbol["st_info"]["bind"]
        if symbol["st_shndx"] != "SHN_UNDEF" and binding != "STB_LOCAL":
            exports.add(symbol.name)
        elif symbol.name and binding == "STB_GLOBAL":
            version = indices.get_symbol(number) if isinstance(indices, GNUVerSymSection) else None
            provider = versions.get(version["ndx"]) if version else None
            undefined[symbol.name] = provider[0] if provider else ""
    tags = dynamic.iter_tags("DT_NEEDED") if isinstance(dynamic, DynamicSection) else ()
    glibc = [v.removeprefix("GLIBC_") for _, v in versions.values() if v.startswith("GLIBC_2")]
    return ElfLibrary(
        _MACHINES.get(elf["e_machine"], str(elf["e_machine"])),
        frozenset(exports),
        undefined,
        tuple(str(vars(tag)["needed"]) for tag in tags),
        max(glibc, key=_numbers, default=""),
        elf.get_section_by_name(_FATBIN) is not None,
        _json_section(elf, _BUILD_INFO, path),
        _json_section(elf, _PLUGIN_INFO, path),
    )


def _json_section(elf: ELFFile, name: str, path: Path) -> dict[str, Any] | None:
    section = elf.get_section_by_name(name)
    if section is None:
        return None
    try:
        values = json.loads(section.data().rstrip(b"\0"))
    except ValueError as err:
        raise PluginError(f"the section {name} of {path} holds no JSON: {err}") from err
    if not isinstance(values, dict):
        raise PluginError(f"the section {name} of {path} holds {values!r}; expected an object")
    return values


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
