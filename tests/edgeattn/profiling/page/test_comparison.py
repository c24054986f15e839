"""The page of a comparison as text: every figure of it, and nothing that was not measured."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeattn.errors import ArtifactError
from edgeattn.profiling.compare import compare_many
from edgeattn.profiling.comparison.result import Comparisons
from edgeattn.profiling.page.comparison import comparison_html, render_comparison
from edgeattn.profiling.page.comparison_plots import Rows, changes, forest, latencies
from edgeattn.profiling.page.plot import SIZE, Plot
from tests.edgeattn.profiling.comparison import made
from tests.graphs import classifier, save


@pytest.fixture(scope="module")
def found() -> Comparisons:
    return made.comparisons()


@pytest.fixture(scope="module")
def text(found: Comparisons) -> str:
    return html.unescape(comparison_html(found))


def test_the_figures_of_the_comparison_are_on_the_page(found: Comparisons, text: str) -> None:
    for pair in found.pairs:
        low, high = pair.ratios["p50"].interval or (0, 0)
        assert f"{low:.3f} to {high:.3f} with 95 % confidence" in text
        assert f">{pair.ratios['p99'].value:.3f}</td>" in text
        assert f"{pair.top1_drop:.2f}" in text
        assert pair.manifest.parents["b_engine"].sha256[:16] in text
        assert all(str(gate.condition) in text and gate.found in text for gate in pair.gates)
    assert all(warning in text for warning in found.warnings)
    assert "the power modes differ: A 15W, C MAXN" in text
    assert "stage 0 / block 0 / </span>attention" in text
    assert "A fp32.engine" in text


def test_gates_are_summed_up_by_the_worst(found: Comparisons, text: str) -> None:
    words = [gate.word for pair in found.pairs for gate in pair.gates]
    assert [words.count(word) for word in ("failed", "too close to call", "passed")] == [2, 1, 3]
    assert 'class="verdict bad"><strong>failed</strong> <span>2 of 6 gates' in text
    passed = replace(found.pairs[0], gates=found.pairs[0].gates[:1])
    page = comparison_html(Comparisons((passed,)))
    assert 'class="verdict good"><strong>passed</strong> <span>1 of 1 gate' in page


def test_what_was_not_compared_is_left_out() -> None:
    bare = compare_many(made.report(made.times(3)), [made.report(made.times(3))])
    page = comparison_html(bare)
    for name in ("gates", "accuracy", "where", "top1"):
        assert f'id="{name}"' not in page
        assert f'href="#{name}"' not in page
    assert page.count('<figure class="plot"') == 3
    assert "3 queries are too few to bound it, it takes 6" in page


def test_outputs_without_a_latency_make_a_page(tmp_path: Path) -> None:
    graphs = [save(classifier("b"), tmp_path / f"{name}.onnx") for name in "ab"]
    x = {"x": np.ones((3, 5), np.float32)}
    compared = compare_many(
        graphs[0], [graphs[1]], x, latency=False, html=tmp_path / "c.html", threads=1
    )
    page = (tmp_path / "c.html").read_text()
    assert page == comparison_html(compared)
    assert 'id="latency"' not in page
    assert 'id="accuracy"' in page
    assert "inf" in page  # the signal over no error at all


def marks(plot: Plot, kind: str) -> list[list[float]]:
    """The numbers in the paths of a class."""
    paths = (mark.path for mark in plot.marks if mark.kind.startswith(kind))
    return [[float(n) for n in re.findall(r"-?[\d.]+", path)] for path in paths]


def test_the_forest_has_each_ratio_between_its_bounds(found: Comparisons) -> None:
    plot = forest(found)
    assert plot is not None
    ratios = [pair.ratios[name] for pair in found.pairs for name in ("p50", "p99")]
    rows = sorted(tick.position for tick in plot.y_ticks)
    assert [tick.text for tick in plot.y_ticks] == [
        f"{letter} {name}" for letter in "BCD" for name in ("p50", "p99")
    ]
    for i, ratio in enumerate(ratios):
        left, level, right, _ = marks(plot, "interval")[i]
        x, height, _ = marks(plot, "point")[i]
        low, high = ratio.interval or (0, 0)
        assert (left, right) == pytest.approx((plot.x.at(low), plot.x.at(high)), abs=0.1)
        assert x == pytest.approx(plot.x.at(ratio.value), abs=0.1)
        assert level == height == pytest.approx(rows[i], abs=0.1)
    (one, _, _), *_ = marks(plot, "rule")
    assert one == pytest.approx(plot.x.at(1.0), abs=0.1)
    limits = [line[0] for line in marks(plot, "limit")]
    assert limits == pytest.approx([plot.x.at(1.05), plot.x.at(0.98)], abs=0.1)


def test_rows_stand_one_below_the_other() -> None:
    ticks = Rows.of("", ("first", "second")).ticks()
    assert [tick.text for tick in ticks] == ["first", "second"]
    assert SIZE > ticks[0].position > ticks[1].position > 0


def test_outlines_hold_all_queries_but_those_that_the_note_counts(found: Comparisons) -> None:
    outlines, curves = latencies(found.sides)
    beyond = dict(re.findall(r"(\w) (\d+) quer", outlines.note))
    for i, side in enumerate(found.sides):
        path = outlines.marks[i].path
        heights = [float(n) for n in re.findall(r"V([\d.]+)", path)][:-1]
        y = outlines.y
        shares = [y.high * (SIZE - height) / SIZE for height in heights]
        count = side.latency.num_samples if side.latency else 0
        inside = count - int(beyond.get(side.letter, 0))
        assert sum(shares) == pytest.approx(100 * inside / count, abs=0.3)
    assert len(curves.marks) == len(curves.legend) == 4


def test_changes_are_drawn_from_nothing_to_what_a_module_takes_more(found: Comparisons) -> None:
    plot = changes(found)
    assert plot is not None
    leaves = [[module for module in pair.modules if module.is_leaf] for pair in found.pairs]
    by_change = sorted(leaves[0], key=lambda module: -abs(module.change_ms))
    assert [tick.text for tick in plot.y_ticks] == [module.label for module in by_change]
    bars = marks(plot, "change c2")  # of B, in the order of the rows
    for bar, module in zip(bars, by_change, strict=True):
        left, _, right, _, _ = bar
        ends = sorted((plot.x.at(0), plot.x.at(module.change_ms)))
        assert (left, right) == pytest.approx(ends, abs=0.1)
    tops = [bar[1] for kind in ("c2", "c3", "c4") for bar in marks(plot, f"change {kind}")]
    assert len(set(tops)) == len(tops) == 3 * len(by_change)
    assert changes(Comparisons((replace(found.pairs[0], modules=()),))) is None


def test_names_of_files_stay_text(found: Comparisons) -> None:
    hostile = '</script><img src=x onerror="alert(1)">'
    pair = found.pairs[0]
    page = comparison_html(Comparisons((replace(pair, b=replace(pair.b, name=hostile)),)))
    assert "<img" not in page
    assert page.count("</script>") == 1


def test_the_page_names_no_other_place(text: str) -> None:
    assert not re.search(r"https?:|//\w|@import|url\(|<link|src=", text.replace("// ", ""))


def test_the_page_of_many_queries_stays_small() -> None:
    reports = [made.report(made.times(20_000, seed=i), export_times=()) for i in range(2)]
    times = [{"latencyMs": ms, "startEnqMs": 0.0} for ms in made.times(20_000, spread=0.5)]
    reports = [replace(each, export_times=tuple(times)) for each in reports]
    assert len(comparison_html(compare_many(reports[0], reports[1:]))) < 1_000_000


def test_a_folder_is_no_page(found: Comparisons, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is a folder"):
        render_comparison(found, tmp_path)
