"""What one check of an engine found, and the worst of several distances that it comes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from edgeattn.engine.reference import Distance
from edgeattn.graph.compare import finite_or_none

Verdict = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class VerifyCheck:
    """What one check found.

    Attributes:
        name: What was checked.
        verdict: `ok`, `failed`, or `skipped` with the reason.
        detail: What was found, in words.
        worst: Largest error, as part of the output's root mean square; `None` if none was
            measured or it is not finite.
    """

    name: str
    verdict: Verdict
    detail: str
    worst: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Turn the check into JSON values."""
        return asdict(self)


class Worst:
    """The largest of several distances, each against its bound."""

    def __init__(self) -> None:
        self._share, self._rms = -1.0, 0.0
        self._what, self._found, self._bound = "", Distance(0.0, 0.0), Distance(0.0, 0.0)
        self._exact = True

    def add(self, what: str, found: Distance, bound: Distance) -> None:
        """Take one distance.

        Args:
            what: Which output, where.
            found: Its distance.
            bound: The largest allowed.
        """
        share = max(found.rms / bound.rms, found.peak / bound.peak)
        self._exact = self._exact and found == Distance(0.0, 0.0)
        self._rms = max(self._rms, found.rms)
        if share > self._share:
            self._share, self._what, self._found, self._bound = share, what, found, bound

    def check(self, name: str, what: str, how: str) -> VerifyCheck:
        """Judge by the one that is farthest beyond, or nearest to, its bound.

        Args:
            name: The check.
            what: What was compared, for a check that passes.
            how: What the distance is from, as `apart`.
        """
        if self._share > 1:
            text = f"{self._what} is {self._found} {how}; allowed are {self._bound}"
            return VerifyCheck(name, "failed", text, finite_or_none(self._rms))
        found = "equal to the last bit" if self._exact else f"at most {self._found} {how}"
        return VerifyCheck(name, "ok", f"{what}: {found}", self._rms)
