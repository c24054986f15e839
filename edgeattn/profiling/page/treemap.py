"""A treemap of modules: rectangles as large as their times, as square as they can be.

References:
    Bruls, Huizing, van Wijk: Squarified Treemaps, 2000.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeattn.profiling.page.plot import SIZE
from edgeattn.profiling.page.words import count, milliseconds, percent

# Width over height that the rectangles are laid out for.
_ASPECT = 2.0
_COLOURS = 8


@dataclass(frozen=True)
class Box:
    """A rectangle in thousandths of the area that holds it."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Cell:
    """A module that is shown as one rectangle.

    Attributes:
        box: Its place among the cells of its group.
        text: Its own name.
        where: The names between the group's and its own.
        label: Its whole name.
        tip: Time and share.
        value: The share in words.
    """

    box: Box
    text: str
    where: str
    label: str
    tip: str
    value: str


@dataclass(frozen=True)
class Group:
    """A module at the top of the model with what is in it.

    Attributes:
        box: Its place in the whole.
        text: Its name.
        value: Its share in words.
        tip: Time and share.
        colour: Class of its colour.
        cells: Its modules; one, itself, if it has none.
    """

    box: Box
    text: str
    value: str
    tip: str
    colour: str
    cells: Sequence[Cell]


def treemap(layers: Mapping[str, Any]) -> list[Group]:
    """Lay out the modules of a layer profile, as `LayerProfile.to_dict` gives it."""
    modules = [module for module in layers["modules"] if module["ms"] > 0]
    groups = []
    for number, (module, box) in enumerate(_placed(modules, _ASPECT)):
        inner = list(_leaves(module))
        aspect = _ASPECT * box.width / box.height
        cells = [
            Cell(place, *words, leaf["label"], _tip(leaf), percent(leaf["share"]))
            for (leaf, words), place in zip(
                inner, squarified([leaf["ms"] for leaf, _ in inner], aspect), strict=True
            )
        ]
        cells.sort(key=lambda cell: -cell.box.width * cell.box.height)
        groups.append(
            Group(
                box,
                module["label"],
                percent(module["share"]),
                _tip(module),
                f"c{number % _COLOURS + 1}",
                cells,
            )
        )
    return groups


def squarified(sizes: Sequence[float], aspect: float) -> list[Box]:
    """Cut a rectangle into parts of these sizes.

    Args:
        sizes: Positive.
        aspect: Width over height of the rectangle.

    Returns:
        A place for each size, in their order.
    """
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    total = sum(sizes)
    areas = [sizes[i] / total * aspect for i in order]  # in a rectangle of `aspect` x 1
    places: list[Box] = []
    left, top, width, height = 0.0, 0.0, aspect, 1.0
    while len(places) < len(areas):
        rest, side = areas[len(places) :], min(width, height)
        row = next(
            (
                n
                for n in range(1, len(rest))
                if _worst(rest[: n + 1], side) > _worst(rest[:n], side)
            ),
            len(rest),
        )
        depth = sum(rest[:row]) / side
        along = 0.0
        for area in rest[:row]:
            extent = area / depth
            if width >= height:
                places.append(_box(left, top + along, depth, extent, aspect))
            else:
                places.append(_box(left + along, top, extent, depth, aspect))
            along += extent
        if width >= height:
            left, width = left + depth, width - depth
        else:
            top, height = top + depth, height - depth
    found = dict(zip(order, places, strict=True))
    return [found[i] for i in range(len(sizes))]


def _worst(row: Sequence[float], side: float) -> float:
    """Give the largest ratio of the sides of the rectangles that share a row."""
    depth = sum(row) / side
    return max(max(depth * depth / area, area / (depth * depth)) for area in row)


def _box(left: float, top: float, width: float, height: float, aspect: float) -> Box:
    return Box(SIZE * left / aspect, SIZE * top, SIZE * width / aspect, SIZE * height)


def _placed(
    modules: Sequence[Mapping[str, Any]], aspect: float
) -> Iterator[tuple[Mapping[str, Any], Box]]:
    boxes = squarified([module["ms"] for module in modules], aspect) if modules else []
    return zip(modules, boxes, strict=True)


def _leaves(module: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], tuple[str, str]]]:
    """List the modules that hold no others, and what lies in one beside its own modules."""
    yield from _below(module, len(module["path"]))


def _below(
    module: Mapping[str, Any], depth: int
) -> Iterator[tuple[Mapping[str, Any], tuple[str, str]]]:
    children = [child for child in module["children"] if child["ms"] > 0]
    for child in children:
        yield from _below(child, depth)
    *where, name = module["label"].split(" / ")
    rest = {
        key: module[key] - sum(child[key] for child in children)
        for key in ("ms", "share", "layers")
    }
    if rest["ms"] > 1e-9 * module["ms"]:
        text = f"{name}, rest" if children else name
        yield {**module, **rest}, (text, " / ".join(where[depth:]))


def _tip(module: Mapping[str, Any]) -> str:
    return (
        f"{module['label']}: {milliseconds(module['ms'])}, {percent(module['share'])}, "
        f"{count(module['layers'], 'layer')}"
    )
