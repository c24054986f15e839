"""The timings of a build, kept in a file for the next one: it then times what is new alone.

TensorRT takes a cache only from the same version, driver and kind of GPU. Several builds may share
a file: each adds what it timed to what the others have written meanwhile. A file that TensorRT
refuses is moved aside and said; no build ever fails for its timings.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeattn.artifacts import atomic_path, check_writable
from edgeattn.engine.tensorrt.gpu import GpuIdentity
from edgeattn.engine.tensorrt.log import CapturedLog
from edgeattn.engine.tensorrt.options import TensorRtOptions
from edgeattn.engine.tensorrt.versions import TensorRtVersion
from edgeattn.errors import ArtifactError, PluginError
from edgeattn.plugin.cache import cache_folder, locked

if TYPE_CHECKING:
    import tensorrt

State = Literal["off", "new", "used", "recovered", "refused"]

_log = logging.getLogger(__name__)


def default_timing_cache(version: TensorRtVersion, gpu: GpuIdentity) -> Path:
    """Name the file that all builds with one TensorRT on one kind of GPU and driver share."""
    name = re.sub(r"[^a-z0-9]+", "-", gpu.name.lower()).strip("-")
    file = f"{name}-sm{gpu.architecture}-trt{version}-cuda{gpu.driver_cuda}.timing"
    return cache_folder() / "timing" / file


def open_timing_cache(
    options: TensorRtOptions, version: TensorRtVersion, gpu: GpuIdentity
) -> TimingCache:
    """Choose the file of a build.

    Raises:
        ArtifactError: If a file was named that cannot be written. The default one is done without
            where its folder is not writable, which is logged.
    """
    if options.no_timing_cache:
        return TimingCache(None)
    if options.timing_cache is not None:
        check_writable(options.timing_cache)
        return TimingCache(options.timing_cache)
    path = default_timing_cache(version, gpu)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_writable(path)
    except (OSError, ArtifactError) as err:
        _log.warning("no timings are kept, and the next build is as slow: %s", str(err))
        return TimingCache(None)
    return TimingCache(path)


class TimingCache:
    """The timings of one build: attached to its configuration, and saved after it.

    Args:
        path: The file; `None` to keep none.

    Attributes:
        state: `off`; `new`, there was no file; `used`; `recovered`, a file that TensorRT refused
            was moved aside; `refused`, TensorRT took none at all.
    """

    def __init__(self, path: Path | None) -> None:
        self.state: State = "off" if path is None else "new"
        self._path = path
        self._read = b""
        self._cache: tensorrt.ITimingCache | None = None
        self._merged = False
        self._bytes = 0

    def attach(self, config: tensorrt.IBuilderConfig, log: CapturedLog) -> None:
        """Give a configuration the timings of the file, or empty ones to be filled.

        Args:
            config: Of the build; it must not outlive this object.
            log: Where TensorRT says why it refuses a file.
        """
        if self._path is None:
            return
        try:
            self._read = self._path.read_bytes()
        except FileNotFoundError:
            pass
        except OSError as err:
            _log.warning("the timing cache %s cannot be read: %s", self._path, err.strerror)
        began = log.now()
        if self._read and self._try(config, self._read):
            self.state = "used"
            return
        if self._read:
            self._move_aside(self._path, self._read, _last_words(log, began))
            self.state = "recovered"
        if not self._try(config, b""):
            _log.warning("TensorRT takes no timing cache: %s", _last_words(log, began))
            self.state = "refused"

    def save(self, config: tensorrt.IBuilderConfig) -> None:
        """Write the timings, together with those that other builds have written meanwhile.

        Whatever prevents it is logged: the engine is built by now.
        """
        if self._path is None or self._cache is None:
            return
        try:
            with locked(self._path.with_name(f".{self._path.name}.lock")):
                self._save(config, self._path, self._cache)
        except (ArtifactError, PluginError, OSError) as err:
            _log.warning("the timings of this build are lost: %s", str(err))

    def to_dict(self) -> dict[str, Any]:
        """Describe it in JSON values, for the build's report."""
        path = None if self._path is None else str(self._path)
        return {
            "path": path,
            "state": self.state,
            "merged": self._merged,
            "bytes": self._bytes,
        }

    def _try(self, config: tensorrt.IBuilderConfig, content: bytes) -> bool:
        cache = config.create_timing_cache(content)
        if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
            return False
        self._cache = cache  # it must live as long as the builder uses it
        return True

    def _save(
        self, config: tensorrt.IBuilderConfig, path: Path, cache: tensorrt.ITimingCache
    ) -> None:
        present = path.read_bytes() if path.exists() else b""
        if present and present != self._read:  # another build was here
            other = config.create_timing_cache(present)
            # Of what both have timed, ours stays.
            self._merged = other is not None and cache.combine(other, ignore_mismatch=False)
            if not self._merged:
                self._move_aside(
                    path, present, "it cannot be merged with the timings of this build"
                )
        memory = cache.serialize()
        if memory is None:
            _log.warning("TensorRT does not give the timings of this build out")
            return
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            stream.write(memory)
        self._bytes = memory.nbytes

    def _move_aside(self, path: Path, content: bytes, reason: str) -> None:
        """Rename a file that is of no use, and say so; its name tells its content."""
        aside = path.with_name(f"{path.name}.{hashlib.sha256(content).hexdigest()[:8]}.unusable")
        try:
            if path.read_bytes() != content:  # another build has replaced it by now
                return
            path.replace(aside)
        except OSError as err:
            _log.warning(
                "the timing cache %s is of no use here (%s): %s", path, reason, err.strerror
            )
            return
        _log.warning(
            "the timing cache %s is of no use here and was moved to %s: %s",
            path,
            aside.name,
            reason,
        )


def _last_words(log: CapturedLog, began: float) -> str:
    said = [line.text for line in log.lines if line.seconds >= began and line.severity != "verbose"]
    return f"TensorRT said: {' '.join(said[-1].split())}" if said else "TensorRT gave no reason"
