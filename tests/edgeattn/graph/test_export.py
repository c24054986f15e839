"""Export: one file that holds the model as it is, or one sentence that says why not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import edgeattn
from edgeattn import InputSpec
from edgeattn.artifacts import read_manifest, sha256_of_file
from edgeattn.errors import (
    ArtifactError,
    EdgeAttnError,
    GraphError,
    MissingDependencyError,
    ModelError,
    SpecError,
)
from edgeattn.graph import export as export_module
from edgeattn.graph.files import embedded_manifest, graph_sha256, load_graph, value_shape
from edgeattn.graph.op import OP_DOMAIN, attention_nodes, spec_of_node
from edgeattn.graph.shapes import infer_types
from edgeattn.graph.torch_export import MAX_OPSET, MIN_OPSET
from edgeattn.graph.verify import relative_error, run_graph
from edgeattn.models.weights_io import save_weights
from tests.tiny import GROUPS, INPUT, tiny

TOLERANCE = 1e-5


def exported(folder: Path, model: Any = None, spec: Any = INPUT, **options: Any) -> onnx.ModelProto:
    model = tiny() if model is None else model
    return load_graph(edgeattn.export(model, spec, folder / "net.onnx", **options))


def report(folder: Path) -> dict[str, Any]:
    return read_manifest(folder / "net.onnx").report


def refused(
    folder: Path, error: type[EdgeAttnError], match: str, model: Any, spec: Any = INPUT, **opts: Any
) -> EdgeAttnError:
    """Show that an export is refused in one sentence and leaves no file."""
    before = sorted(folder.iterdir())
    with pytest.raises(error, match=match) as raised:
        edgeattn.export(model, spec, folder / "net.onnx", **opts)
    assert "\n" not in raised.value.message
    assert sorted(folder.iterdir()) == before
    return raised.value


class Model(nn.Module):
    """A module whose forward is a function, with a few weights to use in it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Pair(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.conv(left), self.conv(right)
        return a.mean((2, 3)) - b.mean((2, 3)), b


class Many(Pair):
    """The same with the inputs as `*args`."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(*inputs)


# --- what the graph holds -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("static") / "net.onnx"
    return edgeattn.export(tiny(), INPUT, path)


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dynamic") / "net.onnx"
    return edgeattn.export(tiny(), INPUT, path, dynamic=True)


@pytest.fixture(scope="module", params=["static", "dynamic"])
def either(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_attention_is_one_node_with_every_attribute(either: Path) -> None:
    graph = load_graph(either)
    nodes = attention_nodes(graph)
    assert [n.name for n in nodes] == [
        f"blocks.{i}.attention/MultiScaleWindowAttention" for i in range(2)
    ]
    weights = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    for i, node in enumerate(nodes):
        spec = spec_of_node(node)
        assert spec == tiny().blocks[i].attention.spec
        assert spec.head_groups == GROUPS
        assert len(node.attribute) == 20
        tables = [weights[name] for name in node.input[1:]]
        layer = tiny().blocks[i].attention
        np.testing.assert_array_equal(tables[0], layer.relative_position_bias_table.detach())
        np.testing.assert_array_equal(tables[1], layer.qkv.bias.detach()[8:])
    assert {o.domain: o.version for o in graph.opset_import} == {"": 20, OP_DOMAIN: 1}


def test_norms_and_activations_stay_single_nodes(either: Path) -> None:
    operators = [node.op_type for node in load_graph(either).graph.node]
    assert operators.count("LayerNormalization") == 2
    assert operators.count("Gelu") == 2
    assert not {"Erf", "Pow", "Sqrt", "Einsum", "Dropout"} & set(operators)


def test_nodes_are_named_after_their_modules_and_each_once(either: Path) -> None:
    modules = {name for name, _ in tiny().named_modules()}
    names = [node.name for node in load_graph(either).graph.node]
    assert len(names) == len(set(names))
    assert {name.rpartition("/")[0] for name in names} <= modules
    assert {"stem/Conv", "blocks.1.norm/LayerNormalization", "head/Gemm"} <= set(names)


def test_a_static_graph_has_the_shapes_given(static: Path) -> None:
    graph = load_graph(static).graph
    assert [(v.name, value_shape(v)) for v in (*graph.input, *graph.output)] == [
        ("input", (1, 3, 11, 9)),
        ("output", (1, 5)),
    ]


def test_a_dynamic_graph_names_its_axes(dynamic: Path) -> None:
    graph = load_graph(dynamic).graph
    assert [(v.name, value_shape(v)) for v in (*graph.input, *graph.output)] == [
        ("input", ("batch", 3, "height", "width")),
        ("output", ("batch", 5)),
    ]


@pytest.mark.parametrize("size", [(1, 11, 9), (3, 12, 12), (2, 5, 1), (1, 1, 30)])
def test_a_dynamic_graph_gives_torchs_numbers_at_any_size(
    dynamic: Path, size: tuple[int, int, int]
) -> None:
    x = torch.randn(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = tiny()(x).numpy()
    graph = load_graph(dynamic)
    assert relative_error([expected], run_graph(graph, {"input": x.numpy()})) < TOLERANCE


def test_a_dynamic_graph_was_compared_at_a_larger_and_a_smaller_size(dynamic: Path) -> None:
    found = read_manifest(dynamic).report
    assert {"2x3x11x9", "3x3x16x14", "1x3x5x4"} <= set(found["verified_at"])
    assert found["max_relative_error"] < TOLERANCE


@pytest.mark.parametrize("opset", range(MIN_OPSET, MAX_OPSET + 1))
def test_the_opset_asked_for_is_the_one_written(tmp_path: Path, opset: int) -> None:
    graph = exported(tmp_path, opset=opset)
    assert {o.domain: o.version for o in graph.opset_import}[""] == opset
    assert read_manifest(tmp_path / "net.onnx").options["opset"] == opset
    operators = {node.op_type for node in graph.graph.node}
    assert ("Gelu" in operators) == (opset >= 20)
    assert report(tmp_path)["max_relative_error"] < TOLERANCE


@pytest.mark.parametrize("opset", [17, 24, 0, -1])
def test_an_opset_out_of_range_is_refused(tmp_path: Path, opset: int) -> None:
    refused(tmp_path, GraphError, f"opset {opset} .* expected 18 to 23", tiny(), opset=opset)


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_portable_graph_runs_in_plain_onnx_runtime(tmp_path: Path, dynamic: bool) -> None:
    graph = exported(tmp_path, portable=True, dynamic=dynamic)
    assert not attention_nodes(graph)
    assert {o.domain for o in graph.opset_import} == {""}
    onnx.checker.check_model(graph, full_check=True)
    session = ort.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    x = torch.randn(1, 3, 11, 9)
    with torch.no_grad():
        expected = tiny()(x).numpy()
    assert relative_error([expected], session.run(None, {"input": x.numpy()})) < TOLERANCE
    assert report(tmp_path)["attention_nodes"] == 2  # what was decomposed


def test_a_model_in_half_precision_keeps_its_type(tmp_path: Path) -> None:
    graph = exported(tmp_path, tiny().half(), InputSpec(INPUT.shape, dtype="float16"))
    assert infer_types(graph)["output"].element == onnx.TensorProto.FLOAT16
    assert len(attention_nodes(graph)) == 2


def test_a_model_of_two_inputs_and_two_outputs(tmp_path: Path) -> None:
    specs = [InputSpec((1, 3, 8, 8), "left"), InputSpec((1, 3, 6, 10), "right")]
    graph = exported(tmp_path, Pair(), specs)
    assert [v.name for v in graph.graph.input] == ["left", "right"]
    shapes = {v.name: value_shape(v) for v in graph.graph.output}
    assert shapes == {"output_0": (1, 4), "output_1": (1, 4, 6, 10)}


@pytest.mark.parametrize("model", [Pair, Many])
def test_axes_of_one_name_are_of_one_size(tmp_path: Path, model: type[nn.Module]) -> None:
    specs = [InputSpec((1, 3, 8, 8), "left"), InputSpec((1, 3, 6, 8), "right")]
    graph = exported(tmp_path, model(), specs, dynamic=True)
    assert [value_shape(v) for v in graph.graph.input] == [
        ("batch", 3, "height", "width"),
        ("batch", 3, "right_height", "width"),
    ]


def test_outputs_that_are_inputs_weights_or_twice_the_same_are_kept(tmp_path: Path) -> None:
    def forward(model: Model, x: Tensor) -> tuple[Tensor, ...]:
        y = model.conv(x)
        return x, y, y, model.conv.bias

    graph = exported(tmp_path, Model(forward))
    assert len(graph.graph.output) == 4


@pytest.mark.parametrize("simplify", [False, True])
def test_nothing_in_the_file_tells_of_the_machine_it_was_made_on(
    tmp_path: Path, simplify: bool
) -> None:
    def forward(model: Model, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, model.conv, lambda x: model.conv(-x), (x,))

    for number, model in enumerate((tiny(), Model(forward))):
        folder = tmp_path / str(number)
        folder.mkdir()
        exported(folder, model, simplify=simplify)
        for file in folder.iterdir():
            content = file.read_bytes()
            hidden = (b".py", b"File ", b"line ", b"site-packages", b"Traceback", b"stack_trace")
            places = (Path.cwd(), Path.home(), tempfile.gettempdir(), sys.prefix, tmp_path)
            for trace in (*hidden, *(os.fsencode(place) + b"/" for place in places)):
                assert trace not in content, (file.name, trace)


def test_two_exports_give_the_same_bytes(tmp_path: Path, dynamic: Path) -> None:
    exported(tmp_path, dynamic=True)
    for suffix in ("", ".json"):
        again = (tmp_path / f"net.onnx{suffix}").read_bytes()
        assert again == dynamic.with_name(f"net.onnx{suffix}").read_bytes()


@pytest.mark.slow
def test_two_processes_export_the_same_bytes(tmp_path: Path) -> None:
    code = "import edgeattn, sys; edgeattn.export('mswin_nano', output=sys.argv[1], dynamic=True)"
    hashes = set()
    for seed in ("1", "2"):
        path = tmp_path / seed / "net.onnx"
        path.parent.mkdir()
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, path], check=True, env=environment)
        hashes.add(sha256_of_file(path))
    assert len(hashes) == 1


# --- the manifest ---------------------------------------------------------------------------------


def test_the_manifest_tells_what_was_exported_and_how(static: Path) -> None:
    manifest = read_manifest(static)
    assert embedded_manifest(load_graph(static), "net.onnx").options == manifest.options
    assert manifest.options == {
        "model": "tiny",
        "inputs": [
            {"shape": [1, 3, 11, 9], "name": "input", "dtype": "float32", "preprocess": None}
        ],
        "classes": [],
        "dynamic": False,
        "opset": 20,
        "portable": False,
    }
    assert manifest.parents.keys() == {"model"}
    found = manifest.report
    assert found["attention_nodes"] == 2
    assert found["parameters"] == sum(p.numel() for p in tiny().parameters())
    assert found["nodes"] == len(load_graph(static).graph.node)
    assert found["simplified"]["applied"] is True
    assert found["max_relative_error"] < TOLERANCE


def test_the_hash_of_the_model_is_that_of_its_weights(tmp_path: Path, static: Path) -> None:
    changed = tiny()
    with torch.no_grad():
        changed.head.bias[2] += 1
    for number, model in enumerate((tiny(), changed)):
        folder = tmp_path / str(number)
        folder.mkdir()
        exported(folder, model)
    hashes = [
        read_manifest(path).parents["model"].sha256
        for path in (static, *(tmp_path / str(n) / "net.onnx" for n in range(2)))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_progress_counts_every_step(tmp_path: Path) -> None:
    steps: list[tuple[int, int | None, str]] = []
    exported(tmp_path, progress=lambda *step: steps.append(step))
    assert [done for done, _, _ in steps] == list(range(6))
    assert {total for _, total, _ in steps} == {5}
    assert steps[1][2] == "trace it"


# --- models by name -------------------------------------------------------------------------------


def test_a_model_of_the_registry_brings_its_input_classes_and_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert edgeattn.export("mswin_nano") == Path("mswin_nano.onnx")
    manifest = read_manifest(tmp_path / "mswin_nano.onnx")
    assert manifest.options["model"] == "mswin_nano"
    assert manifest.options["classes"] == list("0123456789")
    described = manifest.options["inputs"][0]
    assert described["shape"] == [1, 1, 28, 28]
    assert described["preprocess"]["mean"] == [0.1307]
    assert manifest.report["attention_nodes"] == 5


def test_an_unknown_model_is_told_with_near_misses(tmp_path: Path) -> None:
    error = refused(tmp_path, ModelError, "no model named 'mswin_nanno'", "mswin_nanno", None)
    assert "mswin_nano" in error.hint


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules of the user's own, as the working folder."""
    (tmp_path / "my_factories.py").write_text(
        textwrap.dedent(
            """
            from tests.tiny import tiny
            made = tiny()
            def needs_argument(size): return tiny()
            def fails(): raise RuntimeError("no such checkpoint\\nat all")
            def number(): return 3
            """
        )
    )
    (tmp_path / "my_typo.py").write_text("def f(:\n")
    (tmp_path / "my_failure.py").write_text("assert False\n")
    (tmp_path / "my_path.py").write_text("import sys; sys.path.insert(0, 'x')\nnumber = 3\n")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield work
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["tiny", "made"])
def test_a_factory_is_found_in_the_working_folder(factories: Path, name: str) -> None:
    path = list(sys.path)
    edgeattn.export(f"my_factories:{name}", INPUT, factories / "net.onnx")
    assert report(factories)["attention_nodes"] == 2
    assert read_manifest(factories / "net.onnx").options["model"] == name
    assert sys.path == path


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("my_factories:none", "cannot be imported: .* has no attribute 'none'"),
        ("my_none:tiny", "cannot be imported: No module named 'my_none'"),
        ("my_factories:", "cannot be imported"),
        (":tiny", "cannot be imported"),
        ("my_typo:f", "cannot be imported: SyntaxError"),
        ("my_failure:f", "cannot be imported: AssertionError"),
        ("my_factories:needs_argument", "cannot be called: TypeError: .*'size'"),
        ("my_factories:fails", "cannot be called: RuntimeError: no such checkpoint$"),
        ("my_factories:number", "gave a int; expected a torch module"),
        ("my_path:number", "gave a int; expected a torch module"),
    ],
)
def test_a_factory_that_gives_no_module_is_told(
    factories: Path, reference: str, message: str
) -> None:
    path = list(sys.path)
    error = refused(factories, ModelError, f"{reference} {message}", reference)
    assert error.__cause__ is not None or "gave" in message
    assert [place for place in sys.path if place != "x"] == path


# --- inputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (None, "inputs are not known"),
        ([], "inputs are not known"),
        ((1, 3, 11, 9), "given as .1, 3, 11, 9.; expected an InputSpec"),
        ("input:1x3x11x9", "given as 'input:1x3x11x9'; expected an InputSpec"),
        ([INPUT, INPUT], "two inputs have the name input"),
        (InputSpec(("batch", 3, 11, 9)), "has the shape .'batch', 3, 11, 9.; expected example"),
        (InputSpec(INPUT.shape, "output"), "an input has the name output"),
        (InputSpec(INPUT.shape, "stem.weight"), "an input has the name stem.weight"),
        (InputSpec(INPUT.shape, dtype="bfloat16"), "input input is bfloat16"),
    ],
)
def test_inputs_that_cannot_be_are_refused(tmp_path: Path, spec: Any, message: str) -> None:
    assert refused(tmp_path, SpecError, message, tiny(), spec).hint


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 11, 9), "not run on inputs of 1x4x11x9: .* to have 3 channels, but got 4"),
        ((1, 3), "not run on inputs of 1x3: "),
        ((), "not run on inputs of a scalar: "),
    ],
)
def test_inputs_that_the_model_refuses_are_told_with_its_reason(
    tmp_path: Path, shape: tuple[int, ...], message: str
) -> None:
    error = refused(tmp_path, ModelError, message, tiny(), InputSpec(shape))
    assert error.hint == "check --input"


def test_too_many_inputs_are_told(tmp_path: Path) -> None:
    specs = [INPUT, InputSpec((1, 3), "more")]
    refused(tmp_path, ModelError, "not run on inputs of 1x3x11x9, 1x3: TypeError", tiny(), specs)


def test_a_model_that_fails_without_a_message_is_told_by_the_kind_of_error(tmp_path: Path) -> None:
    def forward(model: Model, x: Tensor) -> Tensor:
        raise AssertionError

    refused(tmp_path, ModelError, "1x3x11x9: AssertionError$", Model(forward))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"logits": torch.zeros(1)}, "returns dict; expected tensors"),
        (None, "returns NoneType; expected tensors"),
        ((), "returns nothing; expected tensors"),
        ((torch.zeros(1), 3.0), "returns Tensor, float; expected tensors"),
        (torch.zeros(1, dtype=torch.bfloat16), "returns bfloat16"),
    ],
)
def test_a_model_that_returns_no_tensors_is_refused(
    tmp_path: Path, output: Any, message: str
) -> None:
    assert refused(tmp_path, ModelError, message, Model(lambda model, x: output)).hint


@pytest.mark.parametrize("model", [3, None, {"weight": torch.zeros(1)}, nn.Linear])
def test_what_is_no_module_is_refused(tmp_path: Path, model: Any) -> None:
    refused(tmp_path, ModelError, f"the model is a {type(model).__name__}", model)


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_of_a_file_are_exported_and_their_hash_noted(tmp_path: Path, suffix: str) -> None:
    trained = tiny()
    with torch.no_grad():
        trained.head.bias += 7
    weights = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(trained.state_dict(), weights)
    else:
        save_weights(trained, weights)
    graph = exported(tmp_path, weights=weights)
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    np.testing.assert_array_equal(tensors["head.bias"], trained.head.bias.detach())
    parent = read_manifest(tmp_path / "net.onnx").parents["weights"]
    assert (parent.file, parent.sha256) == (weights.name, sha256_of_file(weights))


def test_own_weights_have_classes_of_their_own(tmp_path: Path) -> None:
    from edgeattn.models.registry import create_model

    save_weights(create_model("mswin_nano", weights=None), tmp_path / "w.safetensors")
    exported(tmp_path, "mswin_nano", None, weights=tmp_path / "w.safetensors")
    assert read_manifest(tmp_path / "net.onnx").options["classes"] == []


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    state = tiny().state_dict()
    state["head.weight"] = torch.zeros(6, 8)
    torch.save(state, tmp_path / "w.pt")
    message = r"head.weight \[6, 8\] where the model has \[5, 8\]"
    refused(tmp_path, ModelError, message, tiny(), weights=tmp_path / "w.pt")


def test_missing_weights_are_told(tmp_path: Path) -> None:
    weights = tmp_path / "none.pt"
    refused(tmp_path, ArtifactError, r"there is no file .*none\.pt", tiny(), weights=weights)


def test_the_weights_file_is_never_overwritten(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_weights(tiny(), weights)
    with pytest.raises(ArtifactError, match="is the weights file of the model"):
        edgeattn.export(tiny(), INPUT, weights, weights=weights)
    assert sorted(tmp_path.iterdir()) == [weights]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, value: float) -> None:
    model = tiny()
    with torch.no_grad():
        model.blocks[1].norm.weight[3] = value
    message = "the weight blocks.1.norm.weight holds NaN or infinity"
    assert refused(tmp_path, ModelError, message, model).hint


def test_a_mask_of_minus_infinity_is_no_broken_weight(tmp_path: Path) -> None:
    def forward(model: Model, x: Tensor) -> Tensor:
        return (x.flatten(2) @ x.flatten(2).mT + model.mask).softmax(-1)

    model = Model(forward)
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    exported(tmp_path, model)
    model.mask[0, 1] = torch.nan
    (tmp_path / "net.onnx").unlink()
    refused(tmp_path, ModelError, "the weight mask holds NaN", model)


# --- models that cannot be exported ---------------------------------------------------------------


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_decision_on_values_is_told_and_nothing_else_is_printed(
    tmp_path: Path, dynamic: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    def forward(model: Model, x: Tensor) -> Tensor:
        return model.conv(x) if x.sum() > 0 else model.conv(-x)

    message = r"cannot be traced: forward\(\) makes a Python decision on the values of a tensor$"
    assert refused(tmp_path, GraphError, message, Model(forward), dynamic=dynamic).hint
    assert capfd.readouterr() == ("", "")


def test_an_operator_without_translation_is_named(tmp_path: Path) -> None:
    def forward(model: Model, x: Tensor) -> Tensor:
        return torch.linalg.qr(x).Q

    refused(tmp_path, GraphError, "cannot be traced: .*linalg_qr", Model(forward))


@pytest.mark.parametrize(("limit", "side"), [(20, 32), (9, 32), (20, 16), (60, 32)])
def test_a_decision_on_a_size_is_told_with_the_axis(tmp_path: Path, limit: int, side: int) -> None:
    def forward(model: Model, x: Tensor) -> Tensor:
        return model.conv(x) if x.shape[3] > limit else 2 * model.conv(x)

    spec = InputSpec((1, 3, side, side))
    message = rf"differs from the model at width {limit + (side < limit)} \(it was traced at width"
    error = refused(tmp_path, GraphError, message, Model(forward), spec, dynamic=True)
    assert "Python conditions on sizes" in error.hint
    exported(tmp_path, Model(forward), spec)  # static, the decision is right


def test_a_decision_on_sizes_together_is_found_at_other_sizes(tmp_path: Path) -> None:
    def forward(model: Model, x: Tensor) -> Tensor:
        return model.conv(x) if x.shape[2] * x.shape[3] % 2 == 0 else 2 * model.conv(x)

    spec = InputSpec((1, 3, 16, 16))
    message = r"differs from the model at batch 3, height 21, width 21 \(it was traced at batch 2"
    refused(tmp_path, GraphError, message, Model(forward), spec, dynamic=True)


def test_an_axis_that_the_model_fixes_is_named(tmp_path: Path) -> None:
    def forward(model: Model, x: Tensor) -> Tensor:
        return model.conv(x + model.position)

    model = Model(forward)
    model.position = nn.Parameter(torch.zeros(1, 3, 1, 9))
    message = "axis 3 of forward's x did not stay dynamic: the model fixes it at 9"
    assert refused(tmp_path, GraphError, message, model, dynamic=True).hint


def test_a_model_of_one_size_is_not_dynamic(tmp_path: Path) -> None:
    def forward(model: Model, x: Tensor) -> Tensor:
        return model.conv(x).mean((2, 3)) + x.reshape(2, 3 * 99).mean()

    message = "no axis can stay dynamic: the model does not run on inputs of 3x3x11x9"
    error = refused(tmp_path, ModelError, message, Model(forward), dynamic=True)
    assert error.hint == "export it static"


@pytest.mark.parametrize("sides", [(32, 32), (28, 42)])
def test_a_model_that_wants_multiples_is_compared_at_multiples(
    tmp_path: Path, sides: tuple[int, int]
) -> None:
    step = 8 if sides == (32, 32) else 14

    def forward(model: Model, x: Tensor) -> Tensor:
        patches = x.unflatten(3, (-1, step)).unflatten(2, (-1, step))
        return model.conv(x).mean((2, 3)) + patches.sum((2, 3, 4, 5))[:, :1]

    spec = InputSpec((1, 3, *sides))
    exported(tmp_path, Model(forward), spec, dynamic=True)
    double = "x".join(str(2 * side) for side in sides)
    assert f"3x3x{double}" in report(tmp_path)["verified_at"]


def test_a_model_that_draws_numbers_is_refused(tmp_path: Path) -> None:
    model = Model(lambda model, x: x + torch.rand_like(x))
    refused(tmp_path, GraphError, "differs from the model on inputs of 1x3x11x9 by", model)


def test_a_type_that_onnx_runtime_lacks_is_told(tmp_path: Path) -> None:
    model = Model(lambda model, x: model.conv(x)).double()
    spec = InputSpec(INPUT.shape, dtype="float64")
    refused(tmp_path, GraphError, "does not run on inputs of 1x3x11x9: NotImpl", model, spec)


def test_outputs_of_minus_infinity_compare_equal(tmp_path: Path) -> None:
    def forward(model: Model, x: Tensor) -> Tensor:
        return model.conv(x).masked_fill(x[:, :1, ::2, ::2] > 0, -torch.inf)

    exported(tmp_path, Model(forward))
    assert report(tmp_path)["max_relative_error"] < TOLERANCE


def test_a_graph_that_is_not_the_model_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = export_module.onnx_from_torch

    def slightly_wrong(*arguments: Any, **options: Any) -> Any:
        traced = trace(*arguments, **options)
        bias = next(t for t in traced.graph.graph.initializer if t.name == "head.bias")
        bias.raw_data = (numpy_helper.to_array(bias) * np.float32(1.1)).tobytes()
        return traced

    monkeypatch.setattr(export_module, "onnx_from_torch", slightly_wrong)
    for simplify in (False, True):
        message = "differs from the model on inputs of 1x3x11x9 by .*; expected at most 1e-03"
        refused(tmp_path, GraphError, message, tiny(), simplify=simplify)


# --- manners --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_every_module_has_its_training_mode_back(tmp_path: Path, fails: bool) -> None:
    model = tiny().train()
    model.blocks[0].eval()  # frozen while the rest is trained
    modes = [module.training for module in model.modules()]
    spec = InputSpec((1, 4, 11, 9)) if fails else INPUT
    if fails:
        refused(tmp_path, ModelError, "does not run", model, spec)
    else:
        exported(tmp_path, model, spec)
    assert [module.training for module in model.modules()] == modes
    assert modes.count(True) > 1
    assert modes.count(False) > 1


def test_dropout_is_off_in_the_graph_of_a_model_in_training(tmp_path: Path, static: Path) -> None:
    exported(tmp_path, tiny().train())
    assert (tmp_path / "net.onnx").read_bytes() == static.read_bytes()


def test_an_output_that_cannot_be_written_is_told_before_the_model_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_module, "resolve", lambda *args: pytest.fail("made"))
    with pytest.raises(ArtifactError, match="there is no folder"):
        edgeattn.export("mswin_base", output=tmp_path / "none" / "net.onnx")


@pytest.mark.parametrize("package", ["torch", "onnxscript"])
@pytest.mark.parametrize("model", ["mswin_nano", "tests.tiny:tiny"])
def test_a_missing_package_is_told_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, model: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    spec = None if model == "mswin_nano" else INPUT
    error = refused(tmp_path, MissingDependencyError, f"needs {package}", model, spec)
    assert error.hint == 'pip install "edgeattn[export]"'


@pytest.mark.slow
def test_a_model_beyond_two_gigabytes_goes_all_the_way(tmp_path: Path) -> None:
    side = 23_200  # one weight of 2.15 GB: more than protobuf can hold
    with torch.device("meta"):
        model = nn.Linear(side, side)
    model.to_empty(device="cpu")
    with torch.no_grad():
        model.weight.zero_().fill_diagonal_(2.0)
        model.bias.fill_(1.0)
    path = edgeattn.export(model, InputSpec((1, side)), tmp_path / "net.onnx")
    del model
    data = path.with_name("net.onnx.data")
    assert data.stat().st_size > 1 << 31
    assert path.stat().st_size < 1 << 16
    found = read_manifest(path)
    assert found.files.keys() == {"net.onnx", "net.onnx.data"}
    assert found.report["max_relative_error"] < TOLERANCE
    assert "2 GB" in found.report["simplified"]["reason"]
    before = graph_sha256(path)
    graph = load_graph(path)
    assert infer_types(graph)["output"].shape == (1, side)
    x = np.arange(side, dtype=np.float32)[None]
    np.testing.assert_allclose(run_graph(graph, {"input": x})[0], 2 * x + 1, rtol=1e-6)
    del graph
    with data.open("rb+") as stream:
        stream.seek(-5, os.SEEK_END)
        stream.write(b"\1")
    assert graph_sha256(path) != before
    data.unlink()  # pytest keeps the folders of its last runs
