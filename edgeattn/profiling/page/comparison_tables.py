"""The tables of a comparison's page."""

from __future__ import annotations

from collections.abc import Sequence

from edgeattn.profiling.comparison.modules import ModulePair
from edgeattn.profiling.comparison.result import Comparison, Comparisons
from edgeattn.profiling.comparison.sides import Side
from edgeattn.profiling.page.tables import Cell, Column, Table
from edgeattn.profiling.page.words import NOTHING, number, percentile_name

_STATISTICS = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99_9_ms", "min_ms", "max_ms", "mean_ms")
_ACCURACY = {
    "sqnr_db": "SQNR, dB",
    "centred_sqnr_db": "centred, dB",
    "cosine": "cosine",
    "max_abs_error": "max abs error",
    "max_rel_error": "max rel error",
    "top1_agreement": "same top-1, %",
}
_TOP1 = ("top1_a", "top1_b", "top1_drop")


def statistics(sides: Sequence[Side]) -> Table | None:
    """List the latencies of all sides, in milliseconds; nothing if none has one."""
    columns = [Column("ms", is_number=False)]
    columns += [Column(percentile_name(key)) for key in _STATISTICS]
    columns += [Column("CV, %"), Column("queries"), Column("queries/s"), Column("mJ/query")]
    rows = []
    for side in sides:
        if side.latency is None:
            continue
        values = [getattr(side.latency, key) for key in _STATISTICS]
        values.append(side.energy_mj)
        *times, mj = (Cell(number(value), value) for value in values)
        cv = side.latency.cv_percent
        count = side.latency.num_samples
        speed = Cell(number(side.throughput_qps), side.throughput_qps)
        rows.append([_name(side), *times, Cell(f"{cv:.1f}", cv), Cell(f"{count:,}"), speed, mj])
    return Table("statistics", "Statistics", columns, rows) if rows else None


def ratios(pairs: Sequence[Comparison]) -> Table | None:
    """List the ratios with their intervals; nothing if there is none."""
    heads = ("Candidate", "percentile", "over A's", "at least", "at most", "change")
    rows = []
    for pair in pairs:
        for name, ratio in pair.ratios.items():
            low, high = ratio.interval or (None, None)
            cells = [
                Cell(NOTHING if value is None else f"{value:.3f}", value)
                for value in (ratio.value, low, high)
            ]
            change = 100 * (ratio.value - 1)
            rows.append(
                [
                    _name(pair.b),
                    Cell(percentile_name(name)),
                    *cells,
                    Cell(f"{change:+.1f} %", change),
                ]
            )
    columns = [Column(text, i > 1) for i, text in enumerate(heads)]
    return Table("ratios", "Ratios, with 95 % confidence", columns, rows) if rows else None


def accuracy(pairs: Sequence[Comparison]) -> Table | None:
    """List how far the candidates' outputs are from the reference's; nothing without engines."""
    columns = [Column("Candidate", is_number=False), Column("output", is_number=False)]
    columns += [Column(text) for text in _ACCURACY.values()]
    rows = [
        [
            _name(pair.b),
            Cell(name),
            *(_figure(getattr(output, key)) for key in _ACCURACY),
        ]
        for pair in pairs
        for name, output in pair.outputs.items()
    ]
    return Table("accuracy-table", "Outputs against A's", columns, rows) if rows else None


def top1(pairs: Sequence[Comparison]) -> Table | None:
    """List top-1 accuracy; nothing without labels."""
    heads = ("Candidate", "of A, %", "of the candidate, %", "points lost")
    columns = [Column(text, i > 0) for i, text in enumerate(heads)]
    rows = [
        [_name(pair.b), *(Cell(f"{getattr(pair, key):.2f}", getattr(pair, key)) for key in _TOP1)]
        for pair in pairs
        if pair.top1_drop is not None
    ]
    return Table("top1", "Top-1", columns, rows) if rows else None


def modules(found: Comparisons) -> Table | None:
    """List the modules of all engines side by side; nothing if they are not known of two."""
    pairs = [pair for pair in found.pairs if pair.modules]
    if not pairs:
        return None
    columns = [Column("Module", is_number=False), Column("A, ms")]
    by_path: dict[tuple[str, ...], dict[str, ModulePair]] = {}
    for pair in pairs:
        b = pair.b.letter
        columns += [Column(f"{b}, ms"), Column(f"{b} − A, ms"), Column(f"{b} / A")]
        for module in pair.modules:
            by_path.setdefault(module.path, {})[b] = module
    longest = max(
        max(module.ms_a or 0, module.ms_b or 0) for pair in pairs for module in pair.modules
    )
    rows = []
    for of_module in by_path.values():
        known = next(iter(of_module.values()))
        words = known.label.split(" / ")
        row = [
            Cell(words[-1], prefix="".join(f"{word} / " for word in words[:-1])),
            _time(known.ms_a, longest),
        ]
        for pair in pairs:
            row += _module_cells(of_module.get(pair.b.letter), longest)
        rows.append(row)
    return Table("modules", "Modules", columns, rows, searchable=True)


def _module_cells(module: ModulePair | None, longest: float) -> list[Cell]:
    if module is None:
        return [Cell(NOTHING)] * 3
    change = Cell(f"{module.change_ms:+.4f}", module.change_ms)
    return [_time(module.ms_b, longest), change, Cell(number(module.ratio, 3), module.ratio)]


def _name(side: Side) -> Cell:
    return Cell(side.name, prefix=f"{side.letter} ")


def _time(ms: float | None, longest: float) -> Cell:
    return Cell(number(ms), ms, bar=None if ms is None or not longest else ms / longest)


def _figure(value: float | None) -> Cell:
    return Cell(number(value, 5), value)
