"""The path from a model to a comparison, as a user types it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from edgeattn.cli.main import run

PREPROCESSED = (1, 28, 28)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """What each verb left behind and printed as JSON, from a model to two engines."""
    folder = tmp_path_factory.mktemp("walked")
    rng = np.random.default_rng(0)
    images = rng.standard_normal((12, *PREPROCESSED)).astype(np.float32)
    np.savez(folder / "images.npz", input=images)
    np.savez(folder / "labelled.npz", input=images, label=rng.integers(0, 10, 12))
    (folder / "mine.py").write_text(
        "from torch import nn\n"
        "def model():\n"
        "    print('a model that talks')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))\n"
    )
    printed = {}
    for name, line in {
        "export": "export mswin_nano --dynamic -o net.onnx",
        "calibrate": "calibrate net.onnx --data images.npz --samples 8 --method percentile",
        "quantize": "quantize net.onnx --table net.calib.json",
        "build": "build net.onnx",
        "build int8": "build net.int8.onnx --threads 1",
    }.items():
        command = [sys.executable, "-m", "edgeattn", *line.split(), "--json"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed[name] = json.loads(done.stdout)
    return folder, printed


@pytest.fixture
def folder(walked, monkeypatch):
    monkeypatch.chdir(walked[0])
    return walked[0]


def printed_json(capfd):
    return json.loads(capfd.readouterr().out)


def test_each_step_prints_its_file_and_manifest_as_one_json_object(walked):
    folder, printed = walked
    files = {
        "export": "net.onnx",
        "calibrate": "net.calib.json",
        "quantize": "net.int8.onnx",
        "build": "net.engine",
        "build int8": "net.int8.engine",
    }
    for step, file in files.items():
        assert printed[step]["file"] == file
        assert (folder / file).is_file()
    assert printed["export"]["report"]["attention_nodes"] > 0
    assert printed["calibrate"]["report"]["samples"] == 8
    assert printed["calibrate"]["options"]["percentile"] == 99.99
    assert printed["quantize"]["parents"]["table"]["file"] == "net.calib.json"
    assert printed["build"]["parents"]["graph"]["file"] == "net.onnx"


def test_export_takes_a_function_of_the_working_folder_and_keeps_its_prints_off_stdout(
    folder, capfd
):
    line = ["export", "mine:model", "--input", "features:1x3x4", "-o", "mine.onnx", "--json"]
    assert run(line) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["options"]["inputs"][0]["name"] == "features"
    assert "a model that talks" in captured.err


def test_export_portable_writes_standard_operators_only(folder, capfd):
    line = "export mswin_nano --portable --no-simplify --opset 19 -o p.onnx"
    assert run(line.split()) == 0
    assert "wrote p.onnx" in capfd.readouterr().out
    import onnx

    graph = onnx.load(folder / "p.onnx")
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    assert [o.version for o in graph.opset_import if o.domain in ("", "ai.onnx")] == [19]


def test_quantize_explains_each_decision(folder, capfd):
    line = "quantize net.onnx --table net.calib.json --explain -o e.onnx"
    assert run(line.split()) == 0
    out = capfd.readouterr().out
    assert "reason" in out
    assert "normalization stays in float" in out


def test_quantize_takes_a_recipe_and_nodes_to_leave_alone(folder, capfd):
    line = "quantize net.onnx --table net.calib.json --recipe full --explain -o f.onnx"
    assert run([*line.split(), "--keep-float", "head/Gemm"]) == 0
    out = capfd.readouterr().out
    assert "output of attention: one scale" in out
    assert "skip branch of a sum: one scale" in out
    assert "kept in float as asked" in out
    assert "tensorrt_faults" in out
    assert run([*line.split(), "--keep-float", "haed/Gemm"]) == 1
    assert "did you mean head/Gemm" in capfd.readouterr().err


def test_build_shows_what_it_would_write_and_writes_nothing(folder, capfd):
    before = sorted(folder.iterdir())
    line = "build --onnx=net.int8.onnx --saveEngine=dry.engine --dryRun --json"
    assert run(line.split()) == 0
    shown = printed_json(capfd)
    assert shown["file"] is None
    assert shown["report"]["int8_arithmetic"]
    assert sorted(folder.iterdir()) == before


def test_build_quantizes_on_the_way(folder, capfd):
    line = "build net.onnx --table net.calib.json --precision int8 -o way.engine --json"
    assert run(line.split()) == 0
    assert "table" in printed_json(capfd)["parents"]


def test_run_takes_any_number_of_samples_and_gives_one_row_each(folder, capfd):
    line = "run net.engine --inputs images.npz --outputs out.npz --batch-size 5 --json"
    assert run(line.split()) == 0
    assert printed_json(capfd)["outputs"]["output"] == {"dtype": "float32", "shape": [12, 10]}
    with np.load(folder / "out.npz") as out, np.load(folder / "images.npz") as images:
        assert out["output"].shape == (12, 10)
        np.savez(folder / "one.npz", input=images["input"][4:5])
        expected = out["output"][4:5]
    line = "run --loadEngine=net.engine --inputs one.npz --outputs one_out.npz"
    assert run(line.split()) == 0
    assert "output   float32   1x10" in capfd.readouterr().out
    with np.load(folder / "one_out.npz") as one:
        np.testing.assert_allclose(one["output"], expected, rtol=1e-4, atol=1e-5)


def test_profile_prints_a_table_and_writes_the_report(folder, capfd):
    line = "profile net.engine --shapes=input:2x1x28x28 --warmUp=1 --duration=0 --iterations=120"
    assert run([*line.split(), "-o", "net.profile.json"]) == 0
    out = capfd.readouterr().out
    assert "p99" in out
    assert "queries/s" in out
    assert "input:2x1x28x28" in out
    report = json.loads((folder / "net.profile.json").read_text())
    assert len(report["exportTimes"]) == 120


def test_profile_prints_json_without_the_single_queries(folder, capfd):
    line = "profile net.int8.engine --inputs images.npz --duration 0 --iterations 3 --json"
    assert run(line.split()) == 0
    report = printed_json(capfd)
    assert report["latency"]["num_samples"] >= 3
    assert report["inputs"] == {"input": [12, 1, 28, 28]}
    assert "exportTimes" not in report


def test_compare_prints_accuracy_and_latency(folder, capfd):
    line = "compare net.engine net.int8.engine --inputs labelled.npz --duration 0 --iterations 3"
    assert run(line.split()) == 0
    out = capfd.readouterr().out
    assert "output, 12 samples" in out
    assert "points lost" in out
    assert run([*line.split(), "--json"]) == 0
    figures = printed_json(capfd)["figures"]
    assert figures["sqnr_db"] > 15
    assert figures["latency_ratio"] > 0


def test_compare_fails_on_the_condition_asked_for_and_still_prints_the_figures(folder, capfd):
    line = "compare net.engine net.int8.engine --inputs images.npz --no-latency"
    assert run([*line.split(), "--json", "--fail-if", "sqnr_db < 200"]) == 1
    captured = capfd.readouterr()
    assert json.loads(captured.out)["violations"]
    assert captured.err.startswith("Error: net.int8.engine fails what --fail-if asks for: sqnr_db")
    assert run([*line.split(), "--fail-if", "sqnr_db < 2"]) == 0
    assert run([*line.split(), "--fail-if", "__import__('os')"]) == 1


def test_models_lists_each_model_with_its_cost(capfd):
    from edgeattn.models.registry import model_names

    assert run(["models", "--json"]) == 0
    models = {model["name"]: model for model in printed_json(capfd)["models"]}
    assert list(models) == model_names()
    assert models["mswin_nano"]["input"]["shape"] == [1, 1, 28, 28]
    assert all(model["parameters"] > 1e5 and model["macs"] > 1e6 for model in models.values())
    assert run(["models"]) == 0
    assert "mswin_tiny" in capfd.readouterr().out


@pytest.mark.parametrize(
    "file", ["net.onnx", "net.int8.onnx", "net.calib.json", "net.engine", "net.profile.json"]
)
def test_inspect_describes_each_file(file, folder, capfd):
    if file == "net.profile.json":
        line = "profile net.engine --inputs images.npz --duration 0 --iterations 3 -o"
        assert run([*line.split(), file]) == 0
        capfd.readouterr()
    assert run(["inspect", file, "--json"]) == 0
    assert printed_json(capfd)
    assert run(["inspect", file]) == 0
    assert capfd.readouterr().out.strip()
