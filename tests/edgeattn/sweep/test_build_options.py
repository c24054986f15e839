"""What a case's `build` says is what `edgeattn.build` is given, for either engine."""

from __future__ import annotations

import pytest

import edgeattn
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.sweep import measure
from edgeattn.sweep.cases import expand
from edgeattn.sweep.spec import read_spec
from tests import foreign_attention
from tests.graphs import save

TOLD = "autotune_attention = true\nglobal_attention = false\n"
SWEEP = """
[axes]
models = ["mixed"]
engines = ["ENGINE"]
options = ["a"]
[models.mixed]
source = "mixed.onnx"
[options.a]
"""


@pytest.mark.parametrize(
    ("engine", "more", "expected"),
    [
        ("cpu", "threads = 1", {"threads": 1}),
        (
            "tensorrt",
            'attention = "native"\ntf32 = false',
            {
                "tensorrt": TensorRtRequest(
                    TensorRtOptions(profiles=(ShapeProfile(opt={"x": (1, 6, 9, 8)}),), tf32=False),
                    attention="native",
                )
            },
        ),
    ],
)
def test_autotuning_is_an_option_of_either_engine(tmp_path, monkeypatch, engine, more, expected):
    save(foreign_attention.windowed(), tmp_path / "mixed.onnx")
    (tmp_path / "sweep.toml").write_text(SWEEP.replace("ENGINE", engine) + TOLD + more)
    (case,) = expand(read_spec(tmp_path / "sweep.toml"))
    given = {}

    def build(graph, output, **options):
        given.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(edgeattn, "build", build)
    monkeypatch.setattr(measure, "case_shapes", lambda *case: ({"x": (1, 6, 9, 8)}, True))
    graphs = {"graph": str(tmp_path / "mixed.onnx"), "reference": str(tmp_path / "mixed.onnx")}
    with pytest.raises(KeyboardInterrupt):
        measure.measure_case(case, graphs, tmp_path / "e", tmp_path / "r", lambda what: None)
    chosen = {"autotune_attention": True, "global_attention": False}
    assert given == {"engine": engine, **chosen, **expected}
