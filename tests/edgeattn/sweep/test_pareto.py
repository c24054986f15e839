import pytest

from edgeattn.sweep.pareto import pareto_front


def row(case, p50, size, *, sqnr=None, top1=None, energy=None, data="d", error=0.5, **asked):
    figures = {"p50_ms": p50, "engine_bytes": size, "sqnr_db": sqnr, "top1_b": top1}
    return {
        "case": case,
        "status": "ok",
        "parents": {"accuracy": data},
        "parameters": {"model": "m", "board": "", "batch_size": 1, "resolution": "", **asked},
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
    rows = [row("a", 1, 1, top1=9), row("b", 2, 2, top1=8, **{axis: "another"})]
    assert pareto_front(rows) == {"a", "b"}


def test_outputs_without_any_error_are_the_most_accurate():
    exact = row("exact", 2, 2, sqnr=None, error=0)
    assert pareto_front([exact, row("int8", 1, 1, sqnr=40)]) == {"exact", "int8"}
    assert pareto_front([row("nan", 2, 2, sqnr=None), row("int8", 1, 1, sqnr=40)]) == {"int8"}


def test_energy_counts_where_all_have_it():
    a, b = row("a", 1, 1, top1=9, energy=5.0), row("b", 2, 2, top1=8, energy=4.0)
    assert pareto_front([a, b]) == {"a", "b"}
    assert pareto_front([a, row("b", 2, 2, top1=8)]) == {"a"}


def test_failed_rows_are_on_no_front():
    assert pareto_front([row("a", 1, 1) | {"status": "failed", "figures": {}}]) == set()
