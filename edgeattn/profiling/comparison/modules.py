"""Modules of two engines side by side: where the difference between them is made.

Both engines have the modules of the model, by the same paths, however differently they compute
them. A layer that computes nodes of several modules counts to the module that holds them all, so
that an engine with more fusion has less time in the small modules and more in the large ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgeattn.profiling.layers.rows import LayerProfile, ModuleRow


@dataclass(frozen=True)
class ModulePair:
    """A module in two engines.

    Attributes:
        path: Names from the model down to it.
        label: The same for people.
        ms_a: Sum of its layers' times in the reference, in typical runs; `None` if that has no
            layer in it.
        ms_b: The same of the candidate.
        is_leaf: Whether there is no module in it on either side.
    """

    path: tuple[str, ...]
    label: str
    ms_a: float | None
    ms_b: float | None
    is_leaf: bool

    @property
    def change_ms(self) -> float:
        """What the candidate takes more; negative where it takes less."""
        return (self.ms_b or 0.0) - (self.ms_a or 0.0)

    @property
    def ratio(self) -> float | None:
        """The candidate's time over the reference's; `None` where one has none."""
        return self.ms_b / self.ms_a if self.ms_a and self.ms_b is not None else None

    def to_dict(self) -> dict[str, Any]:
        """Turn the pair into JSON values."""
        return asdict(self) | {"change_ms": self.change_ms, "ratio": self.ratio}


def align_modules(a: LayerProfile, b: LayerProfile) -> tuple[ModulePair, ...]:
    """Put the modules of two engines side by side.

    Args:
        a: The reference.
        b: The candidate.

    Returns:
        Each module before those in it, in the order in which the reference runs them; one that the
        candidate alone has comes after the one that it runs before it.
    """
    return tuple(_pairs(a.modules, b.modules))


def _pairs(a: Sequence[ModuleRow], b: Sequence[ModuleRow]) -> Iterator[ModulePair]:
    of_a, of_b = ({row.path: row for row in rows} for rows in (a, b))
    for path in _merged(list(of_a), list(of_b)):
        row_a, row_b = of_a.get(path), of_b.get(path)
        known = row_a or row_b
        assert known is not None
        parts = [row.children if row else () for row in (row_a, row_b)]
        yield ModulePair(
            path,
            known.label,
            row_a.ms if row_a else None,
            row_b.ms if row_b else None,
            is_leaf=not any(parts),
        )
        yield from _pairs(*parts)


def _merged(
    first: Sequence[tuple[str, ...]], second: Sequence[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """Keep the order of the first; what only the second has follows its predecessor there."""
    merged = list(first)
    place = 0
    for path in second:
        if path in merged:
            place = merged.index(path) + 1
        else:
            merged.insert(place, path)
            place += 1
    return merged
