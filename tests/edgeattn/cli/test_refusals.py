"""Each of these ends in one sentence and a hint, exit 1, no traceback and no file left behind."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgeattn
from edgeattn.cli.main import run

# Takes root's right to write anywhere (CAP_DAC_OVERRIDE) out of what the next program may have
# (PR_CAPBSET_DROP) and starts it: a root that permissions bind, like any other user.
OBEY_PERMISSIONS = """
import ctypes, os, sys
if os.geteuid() == 0:
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def tiny_graph(seed):
    """A graph that can be calibrated and quantized: two products with a Relu between them."""
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal((6, 6)).astype(np.float32) for _ in range(2)]
    nodes = [
        helper.make_node("MatMul", ["input", "w0"], ["hidden"], "first"),
        helper.make_node("Relu", ["hidden"], ["active"], "relu"),
        helper.make_node("MatMul", ["active", "w1"], ["output"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 6])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The files of a path walked to its end, for each case to copy."""
    folder = tmp_path_factory.mktemp("finished")
    onnx.save(tiny_graph(0), folder / "net.onnx")
    onnx.save(tiny_graph(1), folder / "other.onnx")
    data = np.random.default_rng(2).standard_normal((8, 6)).astype(np.float32)
    np.savez(folder / "data.npz", input=data)
    edgeattn.calibrate(
        folder / "net.onnx",
        folder / "data.npz",
        method="minmax",
        state=folder / "net.calib.state",
    )
    edgeattn.build(folder / "net.onnx", folder / "net.engine")
    return folder


class Evil:
    """Unpickled, it writes a file: what a hostile checkpoint would do."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def write_inputs(folder, marker):
    """Put the bad files of the cases beside the good ones."""
    whole = (folder / "net.onnx").read_bytes()
    (folder / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "text.onnx").write_text("this is no graph")
    engine = (folder / "net.engine").read_bytes()
    (folder / "truncated.engine").write_bytes(engine[: len(engine) // 2])
    manifest = (folder / "net.engine.json").read_text()
    (folder / "truncated.engine.json").write_text(
        manifest.replace("net.engine", "truncated.engine")
    )
    table = (folder / "net.calib.json").read_text()
    (folder / "truncated.calib.json").write_text(table[: len(table) // 2])
    state = (folder / "net.calib.state").read_bytes()
    (folder / "truncated.calib.state").write_bytes(state[: len(state) // 2])
    (folder / "truncated.cache").write_text("TRT-100300-EntropyCalibration2\ninput: 3c01")
    (folder / "other.cache").write_text("TRT-100300-EntropyCalibration2\nx: 3c010204\n")
    np.savez(folder / "shape.npz", input=np.zeros((2, 5), np.float32))
    np.savez(folder / "dtype.npz", input=np.zeros((2, 6), np.float64))
    np.savez(folder / "name.npz", inptu=np.zeros((2, 6), np.float32))
    np.savez(folder / "nan.npz", input=np.full((2, 6), np.nan, np.float32))
    np.savez(folder / "evil.npz", input=np.array([Evil(marker)], dtype=object))
    np.save(folder / "evil.npy", np.array([Evil(marker)], dtype=object))
    (folder / "evil.pt").write_bytes(pickle.dumps({"weight": Evil(marker)}))
    (folder / "empty").mkdir()


CASES = {
    # missing file
    "calibrate a missing graph": "calibrate absent.onnx --data data.npz",
    "calibrate on missing data": "calibrate net.onnx --data absent.npz",
    "calibrate on an empty folder": "calibrate net.onnx --data empty",
    "quantize a missing graph": "quantize absent.onnx --table net.calib.json",
    "quantize by a missing table": "quantize net.onnx --table absent.calib.json",
    "build a missing graph": "build absent.onnx",
    "run a missing engine": "run absent.engine --inputs data.npz --outputs out.npz",
    "run on missing inputs": "run net.engine --inputs absent.npz --outputs out.npz",
    "profile a missing engine": "profile absent.engine",
    "compare with a missing engine": "compare net.engine absent.engine",
    "inspect a missing file": "inspect absent.onnx",
    "export with missing weights": "export mswin_nano --weights absent.safetensors",
    # truncated files
    "calibrate a truncated graph": "calibrate truncated.onnx --data data.npz",
    "quantize a truncated graph": "quantize truncated.onnx --table net.calib.json",
    "quantize by a truncated table": "quantize net.onnx --table truncated.calib.json",
    "build a truncated graph": "build truncated.onnx",
    "build from a text": "build text.onnx",
    "run a truncated engine": "run truncated.engine --inputs data.npz --outputs out.npz",
    "profile a truncated engine": "profile truncated.engine -o report.json",
    "inspect a truncated graph": "inspect truncated.onnx",
    "go on from a truncated state": (
        "calibrate net.onnx --data data.npz --method minmax --state truncated.calib.state"
    ),
    "go on from a state of another method": (
        "calibrate net.onnx --data data.npz --method mse --state net.calib.state"
    ),
    "go on from a state of another graph": (
        "calibrate other.onnx --data data.npz --method minmax --state net.calib.state"
    ),
    "merge a truncated state": "calibrate net.onnx --merge truncated.calib.state",
    "merge a state of another graph": "calibrate other.onnx --merge net.calib.state",
    "merge a shard twice": "calibrate net.onnx --merge net.calib.state --merge net.calib.state",
    "inspect a truncated state": "inspect truncated.calib.state",
    "calibrate a shard without a state": "calibrate net.onnx --data data.npz --shard 1/2",
    "calibrate a fifth of four shards": "calibrate net.onnx --data data.npz --shard 5/4 --state s",
    "calibrate on data and random samples": "calibrate net.onnx --data data.npz --random 4",
    # a table of other weights
    "quantize by a table of other weights": "quantize other.onnx --table net.calib.json",
    # scales of other tools
    "import a missing cache": "calibrate net.onnx --from-cache absent.cache",
    "import a truncated cache": "calibrate net.onnx --from-cache truncated.cache",
    "import a cache of another graph": "calibrate net.onnx --from-cache other.cache",
    "import what is no cache": "calibrate net.onnx --from-cache data.npz",
    "import a graph that is not quantized": "calibrate net.onnx --from-qdq other.onnx",
    "import a truncated graph": "calibrate net.onnx --from-qdq truncated.onnx",
    "write a cache for TensorRT 11": "inspect net.calib.json --as trt-cache --tensorrt 11.1",
    "write a cache of a truncated table": (
        "inspect truncated.calib.json --as trt-cache --tensorrt 10.3 -o t.cache"
    ),
    "write a cache to a missing folder": (
        "inspect net.calib.json --as trt-cache --tensorrt 10.3 -o nowhere/t.cache"
    ),
    # wrong inputs
    "run on a wrong shape": "run net.engine --inputs shape.npz --outputs out.npz",
    "run on a wrong type": "run net.engine --inputs dtype.npz --outputs out.npz",
    "run on a wrong name": "run net.engine --inputs name.npz --outputs out.npz",
    "calibrate on a wrong shape": "calibrate net.onnx --data shape.npz",
    "calibrate on a wrong type": "calibrate net.onnx --data dtype.npz",
    "calibrate on NaN": "calibrate net.onnx --data nan.npz",
    "profile on a wrong shape": "profile net.engine --inputs shape.npz -o report.json",
    "compare on a wrong type": "compare net.engine net.onnx --inputs dtype.npz",
    # unknown names
    "export an unknown model": "export mswin_nanno",
    "export an unknown module": "export no.such.module:model",
    "export with weights of a wrong suffix": "export mswin_nano --weights data.npz",
    # pickles that would run code
    "export with a hostile checkpoint": "export mswin_nano --weights evil.pt",
    "run on a hostile archive": "run net.engine --inputs evil.npz --outputs out.npz",
    "calibrate on a hostile archive": "calibrate net.onnx --data evil.npz",
    "calibrate on a hostile array": "calibrate net.onnx --data evil.npy",
    # outputs that cannot be
    "export to a missing folder": "export mswin_nano -o nowhere/net.onnx",
    "calibrate to a missing folder": "calibrate net.onnx --data data.npz -o nowhere/t.calib.json",
    "quantize to a folder": "quantize net.onnx --table net.calib.json -o empty",
    "build to a missing folder": "build net.onnx -o nowhere/net.engine",
    "run to a missing folder": "run net.engine --inputs data.npz --outputs nowhere/out.npz",
    "profile to a missing folder": "profile net.engine -o nowhere/report.json",
}


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A working folder with good and bad files; the marker of the pickles lies outside it."""
    work = tmp_path / "work"
    work.mkdir()
    for file in finished.iterdir():
        (work / file.name).write_bytes(file.read_bytes())
    write_inputs(work, tmp_path / "marker")
    monkeypatch.chdir(work)
    return work


def listing(folder):
    """Every file of a folder with its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def assert_refused(printed, code=1):
    """One sentence and one hint."""
    lines = printed.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["Error", "hint"], printed
    assert "Traceback" not in printed
    assert "bug" not in printed


@pytest.mark.parametrize("case", CASES)
def test_a_bad_input_is_refused_in_one_sentence_and_leaves_nothing(case, folder, capfd):
    before = listing(folder)
    code = run(CASES[case].split())
    captured = capfd.readouterr()
    assert code == 1, captured
    assert_refused(captured.err)
    assert captured.out == ""
    assert listing(folder) == before
    assert not (folder.parent / "marker").exists()


def test_the_hostile_pickle_would_have_run(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


def test_an_unknown_model_names_the_near_misses(folder, capfd):
    assert run(["export", "mswin_nanno"]) == 1
    assert "hint: did you mean mswin_nano" in capfd.readouterr().err


def test_weights_that_are_not_finite_are_named(folder, capfd):
    import torch
    from safetensors.torch import save_file

    from edgeattn.models.registry import create_model

    state = create_model("mswin_nano", weights=None).state_dict()
    name = next(key for key, tensor in state.items() if tensor.is_floating_point())
    state = {key: tensor.clone() for key, tensor in state.items()}
    state[name].view(-1)[3] = torch.nan
    save_file(state, folder / "nan.safetensors")
    before = listing(folder)
    assert run(["export", "mswin_nano", "--weights", "nan.safetensors"]) == 1
    printed = capfd.readouterr().err
    assert_refused(printed)
    assert name in printed
    assert listing(folder) == before


WRITERS = {
    "export": "export mswin_nano -o closed/net.onnx",
    "calibrate": "calibrate net.onnx --data data.npz -o closed/net.calib.json",
    "quantize": "quantize net.onnx --table net.calib.json -o closed/net.int8.onnx",
    "build": "build net.onnx -o closed/net.engine",
    "run": "run net.engine --inputs data.npz --outputs closed/out.npz",
    "profile": "profile net.engine --iterations 5 -o closed/report.json",
}


def child(*args):
    """Run Python as a user whom permissions bind."""
    command = [sys.executable, "-c", OBEY_PERMISSIONS, *args]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def closed(folder):
    """A folder that nobody may write to."""
    closed = folder / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    probe = child("-c", "open('closed/probe', 'w')")
    if probe.returncode == 0:
        pytest.skip("this machine lets root write to a read-only folder")
    yield closed
    closed.chmod(0o755)


@pytest.mark.parametrize("verb", WRITERS)
def test_a_read_only_folder_is_refused(verb, folder, closed):
    before = listing(folder)
    done = child("-m", "edgeattn", *WRITERS[verb].split())
    assert done.returncode == 1, done
    assert_refused(done.stderr)
    assert "not writable" in done.stderr
    assert listing(folder) == before


ENDLESS = """
import pathlib, time
import numpy as np

def batches():
    while True:
        pathlib.Path("../started").touch()
        time.sleep(0.01)
        yield {"input": np.ones((2, 6), np.float32)}
"""


def test_ctrl_c_during_calibration_is_one_line_and_leaves_nothing(folder):
    (folder / "endless.py").write_text(ENDLESS)
    before = listing(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeattn", "calibrate", "net.onnx", "--data", "endless:batches"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    deadline = time.monotonic() + 30
    while not (folder.parent / "started").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    time.sleep(0.2)  # somewhere in the middle of a batch
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == "Error: interrupted\nhint: nothing was left half-written\n"
    assert out == ""
    assert listing(folder) == before
