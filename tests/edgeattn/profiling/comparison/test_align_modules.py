"""Modules side by side: by path, in the order of the model, with what one side lacks."""

from __future__ import annotations

import pytest

from edgeattn.profiling.comparison.modules import align_modules
from tests.edgeattn.profiling.comparison.made import layers


def test_modules_are_aligned_by_path_whatever_layers_they_are_made_of() -> None:
    a = layers(("stem", 1.0), ("stages.0/attn", 2.0), ("stages.0/attn", 0.5), ("head", 0.25))
    b = layers(("stem", 0.5), ("stages.0/attn", 1.0), ("head", 0.5))
    found = {pair.label: (pair.ms_a, pair.ms_b, pair.is_leaf) for pair in align_modules(a, b)}
    assert found == {
        "stem": (1.0, 0.5, True),
        "stage 0": (2.5, 1.0, False),
        "stage 0 / attn": (2.5, 1.0, True),
        "head": (0.25, 0.5, True),
    }


def test_a_module_of_one_side_stands_after_the_one_that_runs_before_it() -> None:
    a = layers(("a", 1), ("c", 1), ("e", 1))
    b = layers(("a", 1), ("b", 1), ("c", 1), ("d", 1), ("f", 1))
    assert [pair.path for pair in align_modules(a, b)] == [
        (n,) for n in ("a", "b", "c", "d", "f", "e")
    ]


def test_what_a_side_lacks_is_no_time_and_changes_the_sum() -> None:
    a, b = layers(("a", 1.0), ("b/x", 2.0)), layers(("a", 1.5), ("b", 0.5))
    pairs = {pair.path: pair for pair in align_modules(a, b)}
    gone = pairs["b", "x"]
    assert (gone.ms_a, gone.ms_b, gone.change_ms, gone.ratio) == (2.0, None, -2.0, None)
    assert not pairs["b",].is_leaf
    top = [pair.change_ms for pair in pairs.values() if len(pair.path) == 1]
    assert sum(top) == pytest.approx(b.total_ms - a.total_ms)
    assert pairs["a",].to_dict() == {
        "path": ("a",), "label": "a", "ms_a": 1.0, "ms_b": 1.5, "is_leaf": True,
        "change_ms": 0.5, "ratio": 1.5,
    }  # fmt: skip


def test_no_module_has_no_pair() -> None:
    assert align_modules(layers(), layers()) == ()
    (only,) = align_modules(layers(), layers(("a", 1.0)))
    assert (only.ms_a, only.ms_b) == (None, 1.0)
