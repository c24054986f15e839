"""Build the kernels for the CPU: the same source on an emulated GPU, with g++ alone.

The library has the kernels' C interface and checks every memory access and barrier. Objects and
libraries stay in the cache folder under the hash of what they are made of, so that a change costs
one compilation; deleting them is always safe.

References:
    plugins/README.md: what the emulator checks.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgeattn.artifacts import atomic_path
from edgeattn.errors import MissingDependencyError, PluginError
from edgeattn.plugin.cache import cache_folder, locked
from edgeattn.plugin.source import package_version, plugin_source, source_sha256

LIBRARY = "libedgeattn_emulator.so"

# What the library is made of, in `plugins/`.
SOURCE_FOLDERS = ("include", "launch", "emulator")

# For `flags`: the process ends at the first undefined operation.
SANITIZE_FLAGS = ("-fsanitize=undefined", "-fno-sanitize-recover=undefined")

_COMPILE_FLAGS = (
    *("-std=c++17", "-O2", "-fPIC", "-Wall", "-Wextra"),
    # The same numbers on every processor.
    "-ffp-contract=off",
    # Two builds can be loaded side by side.
    *("-fno-gnu-unique", "-fno-semantic-interposition"),
)
_LINK_FLAGS = ("-shared", "-Wl,-Bsymbolic", "-Wl,--no-undefined", "-ldl", "-lpthread")
_JOBS = 2
_ERROR = re.compile(r"\berror\b|undefined reference", re.IGNORECASE)
_ERRORS_TOLD = 3


@dataclass(frozen=True)
class _Compiler:
    """A C++ compiler with the flags for all units.

    Attributes:
        command: Words of the command line.
        identity: What tells it from others.
        flags: Flags that change the code it makes.
    """

    command: tuple[str, ...]
    identity: str
    flags: tuple[str, ...]

    def key(self, *contents: str) -> str:
        """Hash what it would be given."""
        parts = [self.identity, *self.flags, *contents]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    def run(
        self, arguments: Sequence[str | Path], *, folder: Path, what: str, text: str | None = None
    ) -> str:
        """Run it in a folder, with `text` as its input; gives its output.

        Raises:
            PluginError: If it fails: the first errors.
        """
        done = subprocess.run(
            [*self.command, *map(str, arguments)],
            cwd=folder,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            errors = [line for line in lines if _ERROR.search(line)] or lines[-1:]
            told = "; ".join(errors[:_ERRORS_TOLD]) or f"exit status {done.returncode}"
            raise PluginError(f"{what} failed: {told}", f"the source is in {folder}")
        return done.stdout


def build_emulator(
    sources: Path | None = None, *, output: Path | None = None, flags: Sequence[str] = ()
) -> Path:
    """Build the emulator library, or find it built.

    Args:
        sources: `plugins/`; none for the source that comes with the package.
        output: Where to put a copy; none to leave it in the cache.
        flags: Flags of the compiler beyond the usual ones, such as `SANITIZE_FLAGS`.

    Returns:
        The library.

    Raises:
        MissingDependencyError: If there is no C++ compiler.
        PluginError: If the source does not compile.
        ArtifactError: If there is no source, or the output is not writable.
    """
    source = (sources or plugin_source()).absolute()
    compiler = _find_compiler((*_COMPILE_FLAGS, *flags))
    source_hash = source_sha256(source, SOURCE_FOLDERS)
    cache = cache_folder() / "emulator"
    key = compiler.key(*_LINK_FLAGS, package_version(), source_hash)
    library = cache / key / LIBRARY
    with locked(cache / "lock"):
        if not library.is_file():
            macros = (
                f'-DEDGEATTN_VERSION="{package_version()}"',
                f'-DEDGEATTN_SOURCE_SHA256="{source_hash}"',
            )
            _build(source, compiler, macros, cache / "objects", library)
    if output is None:
        return library
    with atomic_path(output) as temporary:
        shutil.copyfile(library, temporary)
    return output


def _find_compiler(flags: tuple[str, ...]) -> _Compiler:
    command = tuple(shlex.split(os.environ.get("CXX", ""))) or ("g++",)
    if shutil.which(command[0]) is None:
        raise MissingDependencyError(
            f"there is no C++ compiler: {command[0]} was not found",
            "install one (Debian, Ubuntu, JetPack: apt install g++) or name it in CXX",
        )
    found = _Compiler(command, "", flags)
    version = found.run(["--version"], folder=Path.cwd(), what="asking for the compiler's version")
    target = found.run(["-dumpmachine"], folder=Path.cwd(), what="asking for the compiler's target")
    return _Compiler(command, version.splitlines()[0] + target, flags)


def _build(
    source: Path, compiler: _Compiler, macros: Sequence[str], objects: Path, library: Path
) -> None:
    """Compile the units whose objects are not there, and link."""
    units = [
        path.relative_to(source)
        for pattern in ("launch/*.cu", "launch/*.cpp", "emulator/*.cpp")
        for path in sorted(source.glob(pattern))
    ]
    objects.mkdir(exist_ok=True)
    library.parent.mkdir(exist_ok=True)
    with ThreadPoolExecutor(_JOBS) as pool:
        built = list(
            pool.map(lambda unit: _compile(source, unit, compiler, macros, objects), units)
        )
    unfinished = library.with_suffix(".unfinished")
    compiler.run(
        [*compiler.flags, *built, *_LINK_FLAGS, "-o", unfinished],
        folder=source,
        what="linking the emulator",
    )
    unfinished.replace(library)


def _compile(
    source: Path, unit: Path, compiler: _Compiler, macros: Sequence[str], objects: Path
) -> Path:
    """Compile one unit, unless there is an object of what it looks like preprocessed.

    Paths are relative to the source: a copy of it elsewhere gives the same objects.
    """
    what = f"compiling {unit} for the emulator"
    text = compiler.run(
        [*compiler.flags, "-DEDGEATTN_EMULATOR", *macros, "-Iinclude", "-E", "-x", "c++", unit],
        folder=source,
        what=what,
    )
    result = objects / f"{compiler.key(text)}.o"
    if not result.is_file():
        unfinished = result.with_suffix(".unfinished")
        compiler.run(
            [*compiler.flags, "-x", "c++-cpp-output", "-c", "-", "-o", unfinished],
            folder=source,
            what=what,
            text=text,
        )
        unfinished.replace(result)
    return result
