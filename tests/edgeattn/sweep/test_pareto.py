import pytest

from edgeattn.sweep.pareto import competitions, pareto_front

ASKED = {"model": "m", "board": "", "batch_size": 1, "resolution": "", "measure": {}}


def row(case, p50, size, *, sqnr=None, top1=None, energy=None, data="d", error=0.5, **asked):
    figures = {"p50_ms": p50, "engine_bytes": size, "sqnr_db": sqnr, "top1_b": top1}
    return {
        "case": case,
        "status": "ok",
        "parents": {"accuracy": data},
        "parameters": {**ASKED, **asked},
        "environment": {"machine": "a board", "cpu_model": "a processor"},
        "figures": figures | {"energy_mj": energy, "max_abs_error": error},
    }


def test_what_is_worse_in_nothing_stays_and_what_is_beaten_goes():
    rows = [
        row("accurate", 2.0, 20, top1=90),
        row("fast", 1.0, 20, top1=80),
        row("beaten", 2.0, 20, top1=80),
        row("small", 3.0, 5, top1=70),
    ]
    assert pareto_front(rows) == {"accurate", "fast", "small"}


def test_equal_rows_beat_each_other_not():
    assert pareto_front([row("a", 1, 1, top1=5), row("b", 1, 1, top1=5)]) == {"a", "b"}


def test_models_compete_by_labels_and_not_by_noise():
    slow = {"p50": 2, "size": 2, "sqnr": 30, "model": "other"}
    assert pareto_front([row("a", 1, 1, sqnr=40), row("b", **slow)]) == {"a", "b"}
    assert pareto_front([row("a", 1, 1, top1=9), row("b", **slow, top1=8)]) == {"a"}
    other_labels = row("b", **slow, top1=8, data="e")
    assert pareto_front([row("a", 1, 1, top1=9), other_labels]) == {"a", "b"}


@pytest.mark.parametrize("axis", ["board", "batch_size", "resolution"])
def test_rows_of_other_boards_and_sizes_do_not_compete(axis):
    rows = [row("a", 1, 1, top1=9), row("b", 2, 2, top1=8, **{axis: 2})]
    assert pareto_front(rows) == {"a", "b"}


@pytest.mark.parametrize(
    "measure", [{"mode": "application"}, {"streams": 2}, {"lock_clocks": True}]
)
def test_rows_that_were_measured_otherwise_do_not_compete(measure):
    rows = [row("a", 1, 1, top1=9), row("b", 2, 2, top1=8, measure=measure)]
    assert pareto_front(rows) == {"a", "b"}
    longer = row("b", 2, 2, top1=8, measure={"iterations": 99, "streams": 1})
    assert pareto_front([rows[0], longer]) == {"a"}


def test_rows_of_another_machine_or_power_mode_do_not_compete():
    best, worse = row("a", 1, 1, top1=9), row("b", 2, 2, top1=8)
    assert pareto_front([best, worse]) == {"a"}
    assert pareto_front([best, worse | {"power_mode": "15W"}]) == {"a", "b"}
    elsewhere = {"environment": {"machine": None, "cpu_model": "another"}}
    assert pareto_front([best, worse | elsewhere]) == {"a", "b"}
    # Whichever of two boards of a kind took the case.
    kind = {"parameters": best["parameters"] | {"board": "orin-nano"}}
    assert pareto_front([best | kind, worse | elsewhere | kind]) == {"a"}


def test_throttled_rows_are_on_no_front_and_beat_nobody():
    throttled = row("a", 1, 1, top1=9) | {"verdict": "throttled"}
    stable, unknown = (
        row(word, 2, 2, top1=8) | {"verdict": word} for word in ("stable", "unknown")
    )
    assert pareto_front([throttled, stable, unknown]) == {"stable", "unknown"}
    assert pareto_front([throttled]) == set()
    (group,) = competitions([throttled, stable])
    assert [r["case"] for r in group.rows] == ["a", "stable"]
    assert [r["case"] for r in group.contenders] == ["stable"]


def test_outputs_without_any_error_are_the_most_accurate():
    exact = row("exact", 2, 2, sqnr=None, error=0)
    assert pareto_front([exact, row("int8", 1, 1, sqnr=40)]) == {"exact", "int8"}
    assert pareto_front([row("nan", 2, 2, sqnr=None), row("int8", 1, 1, sqnr=40)]) == {"int8"}


def test_energy_counts_where_all_have_it():
    a, b = row("a", 1, 1, top1=9, energy=5.0), row("b", 2, 2, top1=8, energy=4.0)
    assert pareto_front([a, b]) == {"a", "b"}
    assert pareto_front([a, row("b", 2, 2, top1=8)]) == {"a"}
    # One above what the board draws at rest, the other with it.
    b["figures"]["idle_mw"] = 900.0
    assert pareto_front([a, b]) == {"a"}
    a["figures"]["idle_mw"] = 950.0
    assert pareto_front([a, b]) == {"a", "b"}
    assert pareto_front([a, b | {"power_rail": "VDD_IN"}]) == {"a"}


def test_failed_rows_are_on_no_front():
    assert pareto_front([row("a", 1, 1) | {"status": "failed", "figures": {}}]) == set()


def test_a_competition_tells_what_its_rows_share():
    rows = [
        row("a", 1, 1, sqnr=9, board="nano", batch_size=4, resolution="8x8"),
        row("b", 1, 1, top1=9, measure={"streams": 2}) | {"power_mode": "MAXN"},
    ]
    a, b = competitions([*rows, rows[0] | {"status": "failed"}])
    assert (a.board, a.batch_size, a.resolution, a.model, a.accuracy) == (
        *("nano", 4, "8x8"),
        *("m", "sqnr_db"),
    )
    assert (b.board, b.power_mode, b.model, b.accuracy) == ("a board", "MAXN", "", "top1_b")
    assert b.measure == {"streams": 2}
    assert (a.rows, b.rows) == ((rows[0],), (rows[1],))
