"""The state of a calibration as a file, `NAME.calib.state`: to go on from, and to merge.

A `.npz` file, never a pickle: what the observers saw, the hash of each sample read, and a manifest
(kind `calibration-state`) as JSON text. It is written whole or not at all. A state goes with one
graph, one data set, one set of options and one shard, and is refused for any other.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeattn.arrays import read_arrays, write_arrays
from edgeattn.artifacts import Manifest
from edgeattn.calibration.observations import Observations
from edgeattn.errors import ArtifactError, EdgeAttnError, SpecError

INTERVAL_S = 30.0

_MANIFEST = "manifest"
_DIGESTS = "digests"
_AGAIN = "delete it and calibrate again, or give another path"


class Shard(NamedTuple):
    """Which share of the samples a calibration runs: of every so many samples one.

    Attributes:
        number: From 1 on.
        shards: How many there are.
    """

    number: int
    shards: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `1/4`.

        Raises:
            SpecError: If the text has another form.
        """
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        shard = cls(*map(int, match.groups())) if match else cls(0, 0)
        if not 1 <= shard.number <= shard.shards:
            raise SpecError(f"the shard is {text!r}; expected 1/4 to 4/4 of four", "count from 1")
        return shard

    def owns(self, number: int) -> bool:
        """Tell whether the run of this number, from 0 on, is this shard's."""
        return number % self.shards == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.shards}"


ALL = Shard(1, 1)


@dataclass(frozen=True)
class CalibrationState:
    """How far a calibration came.

    Attributes:
        manifest: Parent `graph`, the options, and in the report: `shard`, `finished`, `data` (a
            short name), `samples` read, `skipped`, `ignored` and `left_out`.
        digests: Hash of each sample read so far, in order, those of other shards included.
        arrays: What the observers saw.
    """

    manifest: Manifest
    digests: Sequence[bytes]
    arrays: Mapping[str, NDArray[Any]]

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all.

        Raises:
            ArtifactError: If the folder is not writable.
        """
        text = json.dumps(self.manifest.to_dict(), allow_nan=False).encode()
        digests = np.frombuffer(b"".join(self.digests), np.uint8).reshape(-1, 32)
        head = {_MANIFEST: np.frombuffer(text, np.uint8), _DIGESTS: digests}
        write_arrays(path, head | dict(self.arrays))

    @classmethod
    def load(cls, path: Path) -> CalibrationState:
        """Read a state.

        Raises:
            ArtifactError: If the file is missing, truncated or something else.
        """
        try:
            arrays = read_arrays(path)
            text = arrays.pop(_MANIFEST).astype(np.uint8).tobytes()
            digests = [row.tobytes() for row in arrays.pop(_DIGESTS).astype(np.uint8)]
            manifest = Manifest.from_dict(json.loads(text), str(path))
        except (EdgeAttnError, KeyError, ValueError) as err:
            if isinstance(err, ArtifactError):
                raise
            raise ArtifactError(f"{path} is not a whole state of a calibration", _AGAIN) from err
        known = {"shard", "finished", "data", "samples", "skipped", "ignored", "left_out"}
        if manifest.kind != "calibration-state" or not known <= set(manifest.report):
            raise ArtifactError(f"{path} is not a state of a calibration", _AGAIN)
        return cls(manifest, digests, arrays)

    def check_same(self, expected: Manifest, path: Path) -> None:
        """Refuse a state of another graph, other options or another shard.

        Raises:
            ArtifactError: If one differs.
        """
        mine, theirs = self.manifest.parents.get("graph"), expected.parents["graph"]
        if mine is None or mine.sha256 != theirs.sha256:
            raise ArtifactError(f"the state {path} belongs to another graph", _AGAIN)
        differing = {
            name: (found, asked)
            for name in expected.options | self.manifest.options
            if (found := self.manifest.options.get(name)) != (asked := expected.options.get(name))
        }
        shards = self.manifest.report["shard"], expected.report.get("shard")
        if shards[1] and shards[0] != shards[1]:
            differing["shard"] = shards
        for name, (found, asked) in differing.items():
            raise ArtifactError(
                f"the state {path} belongs to another calibration: its {name} is {found}, "
                f"not {asked}",
                _AGAIN,
            )

    def restore(self, observations: Observations, path: Path) -> None:
        """Give the observers what they had seen.

        Raises:
            ArtifactError: If the state lacks some of it.
        """
        try:
            observations.load_state(self.arrays)
        except (KeyError, ValueError, TypeError) as err:
            raise ArtifactError(f"{path} is not a whole state of a calibration", _AGAIN) from err


class Pacemaker:
    """Tells when it is time to write a state again.

    Args:
        interval_s: Seconds between two.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last_s = time.monotonic()

    def is_due(self) -> bool:
        """Tell, and begin to wait anew if so."""
        now_s = time.monotonic()
        if now_s - self._last_s < self._interval_s:
            return False
        self._last_s = now_s
        return True
