"""The kernels' index rule equals that of the models and of the oracle, axis by axis.

A small program (`plugins/tests/window_index_tables.cpp`) calls the kernels' own functions on the
host and prints what they say, one line of integers per question.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path

import pytest

from edgeattn.models import window as torch_rule
from edgeattn.spec import SHIFT_PAD_ORDERS
from tests import oracle
from tests.cases import NAMED_CASES
from tests.plugins.kernel_cases import KERNEL_CASES

# Divides by multiplication: edges of every divisor, and numbers all over the range.
DIVISION = r"""
#include <edgeattn/divisor.h>
#include <stdint.h>
#include <stdio.h>

#include <initializer_list>

static int64_t wrong = 0;

static void try_number(int64_t n, int32_t d, edgeattn::Divisor by) {
  if (n < 0 || n > INT32_MAX) return;
  wrong += edgeattn::divide(static_cast<int32_t>(n), by) != n / d;
}

static void try_divisor(int64_t d) {
  if (d < 1 || d > INT32_MAX) return;
  edgeattn::Divisor const by = edgeattn::make_divisor(static_cast<int32_t>(d));
  for (int64_t k = 0; k < 40; ++k) {
    for (int64_t multiple : {k * d, INT32_MAX / d * d - k * d, (int64_t{1} << k) / d * d}) {
      for (int64_t off = -1; off <= 1; ++off) {
        try_number(multiple + off, static_cast<int32_t>(d), by);
      }
    }
    try_number(INT32_MAX - k, static_cast<int32_t>(d), by);
  }
}

int main() {
  for (int64_t d = 1; d < 5000; ++d) try_divisor(d);
  for (int64_t d = 5000; d <= INT32_MAX; d += d / 900 + 1) try_divisor(d);
  for (int32_t bit = 0; bit < 31; ++bit) {
    for (int64_t off = -2; off <= 2; ++off) try_divisor((int64_t{1} << bit) + off);
  }
  printf("%lld", static_cast<long long>(wrong));
}
"""

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
PAD = -1

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

# ("block", length, window, shift, order), ("grid", length, window) or
# ("neighborhood", length, window, dilation, causal)
Question = tuple[str | int, ...]
Ask = Callable[[list[Question]], list[list[int]]]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Compile the program; ask it many questions at once."""
    program = tmp_path_factory.mktemp("window_index") / "window_index_tables"
    _compile(PLUGINS / "tests" / "window_index_tables.cpp", program)

    def asked(questions: list[Question]) -> list[list[int]]:
        lines = "".join(" ".join(map(str, question)) + "\n" for question in questions)
        done = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
        answers = [[int(number) for number in line.split()] for line in done.stdout.splitlines()]
        assert len(answers) == len(questions)
        return answers

    return asked


def _compile(source: Path, program: Path) -> None:
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-DEDGEATTN_EMULATOR"]
    include = ["-I", str(PLUGINS / "include")]
    subprocess.run(["g++", *flags, *include, str(source), "-o", str(program)], check=True)


def of_the_oracle(question: Question) -> list[int]:
    """Answer from the judge of the operator."""
    kind, length, window, *options = question
    if kind == "neighborhood":
        keys = [oracle.neighbours(t, length, window, *options) for t in range(length)]
        return [
            number
            for of_query in keys
            for number in (len(of_query), *(n for k in of_query for n in (k.source, k.delta)))
        ]
    shift, order = options or (0, 0)
    places = oracle.axis_places(length, window, shift, kind, SHIFT_PAD_ORDERS[order])
    sources = [PAD if place.source is None else place.source for place in places]
    if kind == "grid":
        return sources
    return [n for s, place in zip(sources, places, strict=True) for n in (s, place.label)]


def of_the_models(question: Question) -> list[int]:
    """Answer from the torch operator's rule."""
    kind, length, window, *options = question
    if kind == "grid":
        return torch_rule.axis_grid(length, window).source.flatten().tolist()
    if kind == "block":
        shift, order = options
        table = torch_rule.axis_windows(length, window, shift, SHIFT_PAD_ORDERS[order])
        pairs = zip(table.source.flatten().tolist(), table.label.flatten().tolist(), strict=True)
        return [number for pair in pairs for number in pair]
    table = torch_rule.axis_neighbors(length, window, *options)
    answer = []
    for sources, offsets in zip(table.source.tolist(), table.offset.tolist(), strict=True):
        keys = [(s, o) for s, o in zip(sources, offsets, strict=True) if s != PAD]
        answer += [len(keys), *(number for key in keys for number in key)]
    return answer


def compare(ask: Ask, questions: Iterable[Question]) -> None:
    questions = sorted(set(questions), key=str)
    assert questions
    for question, answer in zip(questions, ask(questions), strict=True):
        assert answer == of_the_oracle(question), question
        assert answer == of_the_models(question), question


def test_the_rule_is_the_same_on_the_axes_of_every_case(ask: Ask) -> None:
    questions = set()
    for case in (*NAMED_CASES.values(), *KERNEL_CASES.values()):
        order = SHIFT_PAD_ORDERS.index(case.spec.shift_pad_order)
        for group, axis in product(case.spec.head_groups, (0, 1)):
            size = ((case.height, case.width)[axis], group.window_size[axis])
            if group.mode == "block":
                questions.add(("block", *size, group.shift_size[axis], order))
            elif group.mode == "grid":
                questions.add(("grid", *size))
            else:
                causal = int(group.causal and axis == 1)
                questions.add(("neighborhood", *size, group.dilation[axis], causal))
    compare(ask, questions)


@pytest.mark.parametrize("order", [0, 1])
def test_the_rule_of_blocks_is_the_same_on_every_small_axis(ask: Ask, order: int) -> None:
    compare(
        ask,
        (
            ("block", length, window, shift, order)
            for length in range(1, 20)
            for window in range(10)
            for shift in range(max(window, 1))
        ),
    )


def test_the_rule_of_grids_is_the_same_on_every_small_axis(ask: Ask) -> None:
    compare(ask, (("grid", *size) for size in product(range(1, 30), range(12))))


@pytest.mark.parametrize("causal", [0, 1])
def test_the_rule_of_neighborhoods_is_the_same_on_every_small_axis(ask: Ask, causal: int) -> None:
    sizes = product(range(1, 16), range(9), range(1, 6))
    compare(ask, (("neighborhood", *size, causal) for size in sizes))


def test_the_rule_is_the_same_on_long_axes(ask: Ask) -> None:
    draw = random.Random(0).randint
    questions: list[Question] = []
    for _ in range(60):
        window = draw(1, 300)
        shift = draw(0, window - 1)
        questions.append(("block", draw(1, 4000), window, shift, draw(0, 1)))
        questions.append(("grid", draw(1, 4000), draw(1, 300)))
        questions.append(("neighborhood", draw(1, 300), draw(0, 90), draw(1, 40), draw(0, 1)))
    compare(ask, questions)


def test_division_by_multiplication_is_exact(tmp_path: Path) -> None:
    (tmp_path / "division.cpp").write_text(DIVISION)
    _compile(tmp_path / "division.cpp", tmp_path / "division")
    done = subprocess.run([tmp_path / "division"], capture_output=True, text=True, check=True)
    assert done.stdout == "0"
