"""Build a small network here and hold it against the CPU: does this machine compute what it should?

The network is one attention layer of two window sizes between two linear layers, made on the spot:
it needs neither torch nor a file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeattn.artifacts import Manifest
from edgeattn.calibration.collect import calibrate
from edgeattn.calibration.quantize import quantize
from edgeattn.calibration.random_samples import RandomSamples
from edgeattn.deploy.findings import Finding
from edgeattn.engine.base import Engine
from edgeattn.engine.build import build
from edgeattn.engine.load import load
from edgeattn.engine.tensorrt.lowering import AttentionWay
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.engine.tensorrt.versions import installed_version
from edgeattn.engine.verify import verify_engine
from edgeattn.engine.verify_check import VerifyCheck
from edgeattn.errors import EdgeAttnError
from edgeattn.graph.files import save_graph
from edgeattn.graph.op import OP_DOMAIN, OP_VERSION, make_attention_node
from edgeattn.graph.placement import Recipe
from edgeattn.plugin.build import find_plugin_library
from edgeattn.plugin.driver import local_architectures
from edgeattn.spec import AttentionSpec, HeadGroup

Kind = Literal["cpu", "tensorrt"]
Progress = Callable[[int, "int | None", str], None]

# INT8 in attention too, so that the plugin's INT8 kernels run.
_PRECISIONS: dict[str, Recipe] = {"fp32": "linear", "fp16": "linear", "int8": "full"}

_TOKENS, _CHANNELS, _BATCH = 14, 96, 4
_SPEC = AttentionSpec(
    32,
    3,
    (HeadGroup(2, (7, 7), (3, 3)), HeadGroup(1, (14, 14), head_offset=2)),
    has_bias=True,
)


@dataclass(frozen=True)
class SelfTestCase:
    """One engine that was built and checked.

    Attributes:
        engine: What ran it.
        precision: Of the graph.
        attention: How attention was lowered; empty on the CPU.
        checks: What the checks found; none if it could not be built.
        failure: Why it could not be built or opened; empty if it could.
        hint: What to do about that.
    """

    engine: Kind
    precision: str
    attention: str
    checks: tuple[VerifyCheck, ...]
    failure: str = ""
    hint: str = ""

    @property
    def passed(self) -> bool:
        """Whether it was built and no check failed."""
        return not self.failure and all(check.verdict != "failed" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Turn the case into JSON values."""
        return asdict(self) | {"passed": self.passed}

    def finding(self) -> Finding:
        """Say it in one sentence."""
        how = f"attention {self.attention}" if self.attention else "the CPU engine"
        topic = f"self-test {self.precision}, {how}"
        if self.failure:
            return Finding("error", topic, self.failure, self.hint)
        failed = [check for check in self.checks if check.verdict == "failed"]
        if failed:
            text = "; ".join(f"{check.name}: {check.detail}" for check in failed)
            fix = "do not deploy engines of this kind from here; please report it with this output"
            return Finding("error", topic, text, fix)
        worst = next((c.detail for c in self.checks if c.name == "reference"), "")
        passed = sum(check.verdict == "ok" for check in self.checks)
        return Finding("ok", topic, f"{passed} checks passed; {worst}")


def run_selftest(
    folder: Path, kind: Kind | None = None, progress: Progress | None = None
) -> tuple[SelfTestCase, ...]:
    """Build the network in several precisions, and verify each engine.

    Args:
        folder: Where the files go.
        kind: What to test; by default TensorRT where it is and there is a GPU, else the CPU engine.
        progress: Called with engines done, engines in all, and the one at hand.
    """
    kind = kind or _best_kind()
    graph = write_graph(folder / "selftest.onnx")
    table = calibrate(graph, RandomSamples(8), folder / "selftest.calib.json", method="minmax")
    cases: list[SelfTestCase] = []
    ways = _attention_ways(kind)
    total = len(_PRECISIONS) * len(ways)
    for precision, recipe in _PRECISIONS.items():
        typed = graph
        if precision != "fp32":
            typed = quantize(
                graph,
                folder / f"selftest.{precision}.onnx",
                table=table if precision == "int8" else None,
                precision=precision,
                recipe=recipe,
            )
        for way in ways:
            if progress is not None:
                progress(len(cases), total, f"self-test {precision} {way}".rstrip())
            cases.append(_run_case(typed, kind, precision, way))
    return tuple(cases)


def write_graph(path: Path) -> Path:
    """Write the network: tokens `[batch, 14, 14, 96]` to the same shape, weights from a seed."""
    rng = np.random.default_rng(0)
    (bias_name, bias_shape), *_ = (
        (name, shape) for name, shape in _SPEC.input_shapes().items() if name != "qkv"
    )
    weights = {
        "to_qkv": rng.standard_normal((_CHANNELS, _SPEC.qkv_channels)) / _CHANNELS**0.5,
        "project": rng.standard_normal((_SPEC.out_channels, _CHANNELS)) / _CHANNELS**0.5,
        bias_name: rng.standard_normal(bias_shape),
    }
    nodes = [
        helper.make_node("MatMul", ["tokens", "to_qkv"], ["qkv"], name="to_qkv"),
        make_attention_node(_SPEC, _SPEC.input_names, "mixed", "attention"),
        helper.make_node("MatMul", ["mixed", "project"], ["projected"], name="project"),
        helper.make_node("Add", ["tokens", "projected"], ["out"], name="residual"),
    ]
    shape: list[str | int | None] = ["batch", _TOKENS, _TOKENS, _CHANNELS]
    graph = helper.make_graph(
        nodes,
        "selftest",
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(OP_DOMAIN, OP_VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return save_graph(model, path, Manifest("graph"))


def _best_kind() -> Kind:
    installed = importlib.util.find_spec("tensorrt") is not None
    return "tensorrt" if installed and local_architectures() else "cpu"


def _attention_ways(kind: Kind) -> tuple[AttentionWay | Literal[""], ...]:
    """List the lowerings to try; the plugin's where there is a library."""
    if kind == "cpu":
        return ("",)
    has_plugin = find_plugin_library(installed_version().major) is not None
    return ("plugin", "native") if has_plugin else ("native",)


def _run_case(
    graph: Path, kind: Kind, precision: str, way: AttentionWay | Literal[""]
) -> SelfTestCase:
    try:
        with ExitStack() as stack:
            engines = _open(graph, kind, way, stack)
            shapes = [{"tokens": _shape(batch)} for batch in (_BATCH, 1, _BATCH - 1)]
            checks = verify_engine(
                engines["engine"],
                graph,
                shapes=shapes,
                without_graph=engines.get("without_graph"),
                second_build=engines["second_build"],
            )
    except EdgeAttnError as err:
        return SelfTestCase(kind, precision, way, (), err.message, err.hint)
    return SelfTestCase(kind, precision, way, tuple(checks))


def _open(
    graph: Path, kind: Kind, way: AttentionWay | Literal[""], stack: ExitStack
) -> dict[str, Engine]:
    """Build twice, and open what the checks compare."""
    request = None
    if way:
        profile = ShapeProfile(
            min={"tokens": _shape(1)},
            opt={"tokens": _shape(_BATCH)},
            max={"tokens": _shape(_BATCH)},
        )
        # Without a timing cache the second build chooses its tactics by itself.
        options = TensorRtOptions(profiles=(profile,), no_timing_cache=True)
        request = TensorRtRequest(options=options, attention=way)
    first, again = (
        build(graph, graph.with_suffix(f".{number}.engine"), engine=kind, tensorrt=request)
        for number in (1, 2)
    )
    engines = {
        "engine": stack.enter_context(load(first)),
        "second_build": stack.enter_context(load(again)),
    }
    if way:
        from edgeattn.engine.tensorrt.load import TensorRtRunOptions

        plain = load(first, tensorrt=TensorRtRunOptions(cuda_graph=False))
        engines["without_graph"] = stack.enter_context(plain)
    return engines


def _shape(batch: int) -> tuple[int, ...]:
    return (batch, _TOKENS, _TOKENS, _CHANNELS)
