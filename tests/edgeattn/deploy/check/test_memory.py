"""What a graph takes of memory, against figures worked out by hand."""

from __future__ import annotations

from edgeattn.deploy.check.memory import (
    MemoryEstimate,
    check_board_memory,
    estimate_memory,
    live_bytes,
)
from edgeattn.deploy.check.subject import Subject, make_subject
from edgeattn.engine.tensorrt.destination import plan_for
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.graph.shapes import infer_types
from tests.edgeattn.deploy.check.graphs import free_the_batch, sound
from tests.graphs import from_text

GIB = 1 << 30


def live(text: str) -> int | None:
    graph = from_text(text)
    return live_bytes(graph, infer_types(graph))


def test_a_tensor_lives_until_its_last_reader() -> None:
    chain = "g (float[10] x) => (float[20] y) { a = Concat<axis=0>(x, x) y = Neg(a) }"
    assert live(chain) == 80 + 80
    skip = "g (float[10] x) => (float[10] y) { a = Neg(x) b = Neg(a) c = Neg(b) y = Add(x, c) }"
    assert live(skip) == 3 * 40  # x is kept for the sum


def test_another_shape_of_a_tensor_is_no_other_tensor() -> None:
    graph = from_text(
        "g (float[4,5] x, int64[1] s) => (float[20] y) { a = Neg(x) b = Flatten<axis=0>(a) "
        "c = Squeeze(b, s) y = Abs(c) }"
    )
    types = dict(infer_types(graph))
    assert live_bytes(graph, types) == 80 + 80 + 8  # the axes are an input here


def test_sizes_that_are_not_known_are_not_guessed() -> None:
    assert live("g (float[N] x) => (float[N] y) { y = Neg(x) }") is None


def subject(*, dynamic: bool = False) -> Subject:
    graph = sound()
    options = TensorRtOptions()
    if dynamic:
        free_the_batch(graph)
        shapes = {"x": (1, 8, 8, 32)}
        options = TensorRtOptions(profiles=(ShapeProfile(opt=shapes, max={"x": (5, 8, 8, 32)}),))
    request = TensorRtRequest(options, target="jetson-orin-nano", jetpack="6.2")
    return make_subject(graph, request, plan_for("jetson-orin-nano", "6.2"))


def test_the_largest_shapes_count() -> None:
    once = estimate_memory(subject())
    five = estimate_memory(subject(dynamic=True))
    # The query's values, of 96 channels, while they are made of the normalized input's 32.
    assert once.activations_bytes == 64 * (96 + 32) * 4
    assert five.activations_bytes == 5 * once.activations_bytes
    assert once.weights_bytes == 4 * (32 + 32 + 32 * 96 + 32 * 5 + 49 + 225)
    assert once.largest_bytes == 4 * 32 * 96
    assert once.module_gib == 8
    # Recorded boards of 8 GB have 7620 MB for programs.
    assert once.available_bytes is not None
    assert 6 * GIB < once.available_bytes < 7620 << 20
    assert estimate_memory(subject(), 4).module_gib == 4


def findings(**changes: object) -> list[tuple[str, str]]:
    values = {
        "weights_bytes": GIB // 4,
        "largest_bytes": GIB // 8,
        "activations_bytes": GIB // 4,
        "build_bytes": 2 * GIB,
        "run_bytes": GIB,
        "available_bytes": 6 * GIB,
        "module_gib": 8,
    } | changes
    estimate = MemoryEstimate(**values)  # type: ignore[arg-type]
    return [(f.level, f.reason) for f in check_board_memory(subject(), estimate)]


def test_what_fits_is_not_worth_a_word() -> None:
    assert findings() == []
    assert findings(available_bytes=None, module_gib=None) == []


def test_a_build_that_cannot_fit_is_an_error() -> None:
    found = findings(weights_bytes=4 * GIB)
    assert found[0][0] == "error"
    assert found[0][1].startswith("building on a board with 8 GiB: 6,144 MiB of memory are")


def test_a_run_that_may_not_fit_is_a_warning() -> None:
    ((level, reason),) = findings(activations_bytes=7 * GIB, run_bytes=8 * GIB)
    assert level == "warning"
    assert "weights take 256 MiB and activations up to 7,168 MiB" in reason


def test_a_large_constant_is_looked_at_in_one_piece() -> None:
    found = findings(largest_bytes=4 * GIB)
    assert any("4,096 MiB in one piece" in reason for _, reason in found)


def test_a_run_takes_weights_activations_and_a_context() -> None:
    found = estimate_memory(subject())
    assert found.activations_bytes is not None
    rest = found.run_bytes - found.weights_bytes - found.activations_bytes
    assert 100 << 20 < rest < GIB
    assert found.build_bytes > GIB  # what TensorRT's own builder takes
    assert found.to_dict()["module_gib"] == 8
