"""From a bundle to engines on two boards: OpenSSH's server, real environments, the CPU engine.

The boards are this machine under other homes; what JetPack's packages are on a board, this
machine's are on them. Nothing is fetched from a network.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import edgeattn
import edgeattn.cli.deploy
import edgeattn.deploy.deploy
from edgeattn.artifacts import Manifest, read_json, sha256_of_file
from edgeattn.bundle.read import Bundle
from edgeattn.bundle.write import write_bundle
from edgeattn.cli.main import run
from edgeattn.deploy.deploy import BoardProgress, Deployment, Reach, deploy
from edgeattn.deploy.measured_shapes import measured_shapes
from edgeattn.deploy.remote_doctor import examine_board
from edgeattn.deploy.selftest import write_graph
from edgeattn.deploy.wheel import pack_wheel
from edgeattn.engine.tensorrt.options import ShapeProfile, TensorRtOptions
from edgeattn.engine.tensorrt.request import TensorRtRequest
from edgeattn.errors import ArtifactError, DeployError
from edgeattn.profiling.report import read_report
from tests.edgeattn.deploy.sshd import Board, boards, wait_until

pytestmark = pytest.mark.ssh
QUICK = ("--iterations", "3", "--duration", "0", "--warm-up", "0")
BARE = ("--no-layers", "--no-board")


@dataclass
class Lab:
    """Two boards, two bundles, and what became of the first deployment on both."""

    folder: Path
    boards: list[Board]
    config: Path
    key: Path
    bundles: list[Path]
    listings: list[dict[str, tuple[int, int]]]
    said: list[BoardProgress] = field(default_factory=list)
    done: list[Deployment] = field(default_factory=list)

    @property
    def reach(self) -> Reach:
        return Reach(ssh_config=self.config, retry_s=(0.1, 0.5, 1.0))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    graph = write_graph(folder / "net.onnx")
    public_key = write_keys(folder)
    bundles = [folder / "v1.zip", folder / "v2.zip"]
    for seed, bundle in enumerate(bundles):  # the second differs in its golden tensors
        write_bundle(
            graph,
            bundle,
            engine="cpu",
            plugin="none",
            name="net",
            seed=seed,
            key=folder / "key.pem",
        )
    wheel = pack_wheel()
    with (
        boards(folder, "orin-a", "orin-b") as (both, config),
        pytest.MonkeyPatch.context() as patch,
    ):
        # Somebody may work on the checkout while the tests run: the same wheel throughout.
        patch.setattr(edgeattn.deploy.deploy, "pack_wheel", lambda: wheel)
        made = Lab(folder, both, config, public_key, bundles, [board.listing() for board in both])
        made.done = deploy(
            ["orin-a", "orin-b"],
            bundles[0],
            reach=made.reach,
            public_key=public_key,
            profile_arguments=(*QUICK, *BARE),
            output=folder / "deployed",
            notify=made.said.append,
        )
        yield made


def write_keys(folder: Path) -> Path:
    """Make a pair of keys in `key.pem` and `public.pem`, and give the latter."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, pem = Ed25519PrivateKey.generate(), serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "public.pem").write_bytes(public)
    return folder / "public.pem"


def current(board: Board) -> Path:
    return (board.root / "current").resolve()


def options(lab: Lab) -> Sequence[str]:
    key = ("--public-key", str(lab.key))
    return ("--ssh-config", str(lab.config), *key, "--profile-args", " ".join(BARE))


def test_two_boards_build_verify_and_profile_at_the_same_time(lab: Lab) -> None:
    assert [(d.board, d.error) for d in lab.done] == [("orin-a", None), ("orin-b", None)]
    steps = {
        board: [p.step for p in lab.said if p.board == board] for board in ("orin-a", "orin-b")
    }
    for said in steps.values():
        order = list(dict.fromkeys(said))
        assert order == [
            *("connect", "upload", "unpack", "environment", "doctor", "build", "profile"),
            *("activate", "done"),
        ]
    at = [(p.board, p.step) for p in lab.said]
    assert at.index(("orin-a", "environment")) < at.index(("orin-b", "done"))
    assert at.index(("orin-b", "environment")) < at.index(("orin-a", "done"))
    for board, deployment in zip(lab.boards, lab.done, strict=True):
        assert list(deployment.seconds) == ["environment", "doctor", "build", "profile"]
        assert current(board) == Path(deployment.folder)
        assert json.loads(json.dumps(deployment.to_dict()))["error"] is None


def test_manifest_and_report_come_back_and_belong_together(lab: Lab) -> None:
    for board, deployment in zip(lab.boards, lab.done, strict=True):
        folder = lab.folder / "deployed" / board.name
        assert {path.name for path in deployment.files} >= {
            *("model.engine.json", "model.profile.json", "doctor.json", "deployment.json"),
            *("environment.log", "build.log", "profile.log"),
        }
        values = read_json(folder / "model.engine.json", "a manifest")
        manifest = Manifest.from_dict(values, "it")
        assert manifest.parents["bundle"].sha256 == sha256_of_file(lab.bundles[0])
        assert [check["verdict"] for check in manifest.report["seal"]["golden"]] == ["ok"]
        with Bundle.open(lab.bundles[0], lab.key) as bundle:
            assert manifest.report["seal"]["signed_by"] == bundle.signed_by != ""
        engine = current(board) / "model.engine"
        assert manifest.files["model.engine"] == sha256_of_file(engine)
        report = read_report(folder / "model.profile.json")
        assert report.latency.p50_ms == deployment.p50_ms
        assert report.inputs == {"tokens": (1, 14, 14, 96)}
        assert json.loads((folder / "doctor.json").read_text())["passed"] is True


def test_nothing_outside_the_deployment_folder_is_touched(lab: Lab) -> None:
    for board, before in zip(lab.boards, lab.listings, strict=True):
        assert board.listing() == before


def test_the_environment_sees_the_boards_own_packages_and_runs_what_was_sent(lab: Lab) -> None:
    root = lab.boards[0].root
    (venv,) = (root / "venvs").iterdir()
    assert "include-system-site-packages = true" in (venv / "pyvenv.cfg").read_text()
    code = "import edgeattn, numpy; print(edgeattn.__file__); print(numpy.__file__)"
    done = subprocess.run(
        [venv / "bin/python", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(lab.boards[0].home)},
        cwd="/",
    )
    ours, theirs = done.stdout.splitlines()
    assert Path(ours).is_relative_to(venv)
    assert not Path(theirs).is_relative_to(venv)


def test_the_deployed_engine_computes_what_the_bundles_graph_does(lab: Lab, tmp_path: Path) -> None:
    values = np.random.default_rng(7).standard_normal((3, 14, 14, 96)).astype(np.float32)
    np.savez(tmp_path / "in.npz", tokens=values)
    here = current(lab.boards[1])
    subprocess.run(
        [
            *(here / "edgeattn", "run", here / "model.engine"),
            *("--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz"),
        ],
        check=True,
        capture_output=True,
        env={"HOME": str(lab.boards[1].home), "PATH": "/usr/bin:/bin"},
    )
    with edgeattn.load(lab.folder / "net.onnx") as engine:
        expected = engine.run({"tokens": values})
    with np.load(tmp_path / "out.npz") as found:
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)


def test_an_update_survives_a_cut_sends_what_changed_and_rolls_back(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    board = lab.boards[0]
    first = current(board)
    cuts: list[int] = []

    def notify(progress: BoardProgress) -> None:
        if progress.step == "build" and not cuts:
            cuts.append(board.cut())

    (done,) = deploy(
        ["orin-a"],
        lab.bundles[1],
        reach=lab.reach,
        public_key=lab.key,
        profile_arguments=(*QUICK, *BARE),
        output=lab.folder / "deployed",
        notify=notify,
    )
    assert (done.error, cuts[0] > 0) == (None, True)
    assert list(done.seconds) == ["doctor", "build", "profile"]  # the environment is there
    shared = (lab.folder / "net.onnx").stat().st_size  # the wheel is shared as well
    assert 0 < done.sent_bytes <= lab.bundles[1].stat().st_size - shared
    assert lab.bundles[1].read_bytes() == (current(board) / "bundle.zip").read_bytes()
    second = current(board)
    assert second != first

    assert run(["deploy", "orin-a", "--rollback", *options(lab)]) == 0
    assert f"{first.name} is current again, in place of {second.name}" in capsys.readouterr().out
    assert current(board) == first
    assert run(["deploy", "orin-a", "--status", "--json", *options(lab)]) == 0
    rows = json.loads(capsys.readouterr().out)["boards"]["orin-a"]["deployments"]
    assert {row["id"]: (row["is_current"], row["is_previous"], row["bundle"]) for row in rows} == {
        first.name: (True, False, "v1.zip"),
        second.name: (False, True, "v2.zip"),
    }
    assert run(["deploy", "orin-a", "orin-b", "--status", *options(lab)]) == 0
    assert "previous" in capsys.readouterr().out

    command = ["deploy", "orin-a", str(lab.bundles[1]), *QUICK, *options(lab)]
    assert run([*command, "-o", str(lab.folder / "deployed"), "--json"]) == 0
    (again,) = json.loads(capsys.readouterr().out)["deployments"]
    assert (again["sent_bytes"], again["seconds"]) == (0, {})  # it only became current again
    assert current(board) == second


def test_a_bundle_that_a_board_would_refuse_is_refused_here(lab: Lab, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.zip"
    data = bytearray(lab.bundles[0].read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    before = [current(board) for board in lab.boards]
    with pytest.raises(ArtifactError):
        deploy(["orin-a"], damaged, reach=lab.reach)
    assert [current(board) for board in lab.boards] == before


def test_no_board_is_changed_if_one_cannot_be_reached(lab: Lab, tmp_path: Path) -> None:
    with lab.config.open("a") as config:
        config.write("Host off\n  HostName 127.0.0.1\n  Port 9\n")
    said: list[BoardProgress] = []
    with pytest.raises(DeployError, match="off does not answer"):
        deploy(
            ["orin-b", "off"], lab.bundles[1], reach=lab.reach, output=tmp_path, notify=said.append
        )
    assert {progress.step for progress in said} == {"connect"}
    with pytest.raises(DeployError, match="the board orin-b is given twice"):
        deploy(["orin-b", "me@orin-b"], lab.bundles[1], reach=lab.reach, output=tmp_path)


def test_where_nothing_could_come_back_to_nothing_is_sent(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[BoardProgress] = []
    with pytest.raises(ArtifactError, match=r"orin-b cannot be made: Not a directory"):
        deploy(
            *(["orin-b"], lab.bundles[0]),
            reach=lab.reach,
            output=tmp_path / "file",
            notify=said.append,
        )
    assert said == []


def test_a_failure_on_one_board_is_its_own_and_its_logs_come_back(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = current(lab.boards[1])  # the same deployment, to be measured in another way
    command = ["deploy", "orin-b", str(lab.bundles[0]), *QUICK, *options(lab)]
    (tmp_path / "orin-b").mkdir()
    (tmp_path / "orin-b" / "environment.log").write_text("of an earlier deployment")
    shapes = ["--shapes", "tokens:1x14x14x95", "-o", str(tmp_path)]
    assert run([*command, *shapes]) == 1
    said = capsys.readouterr()
    assert "Error: 1 of 1 deployments failed: orin-b: the step profile failed: " in said.err
    assert "95" in (tmp_path / "orin-b" / "profile.log").read_text()
    assert "pip install" in (tmp_path / "orin-b" / "environment.log").read_text()
    assert "failed" in said.out
    assert current(lab.boards[1]) == before


def test_after_ctrl_c_the_board_goes_on_by_itself(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(board: str, done: int, total: int | None, what: str) -> None:
        if what == "profile":
            raise KeyboardInterrupt

    monkeypatch.setattr(
        edgeattn.cli.deploy, "working_together", lambda: contextlib.nullcontext(interrupt)
    )
    before = (current(lab.boards[1]) / "model.profile.json").read_bytes()
    command = ["deploy", "orin-b", str(lab.bundles[0]), *options(lab), "-o", str(tmp_path)]
    assert run([*command, "--iterations", "4", *QUICK[2:]]) == 1
    assert "hint: the same command follows it again" in capsys.readouterr().err
    wait_until(lambda: (current(lab.boards[1]) / "model.profile.json").read_bytes() != before)


def test_the_doctor_examines_a_board_through_its_deployment(lab: Lab) -> None:
    found = examine_board("orin-b", lab.reach)
    topics = {finding["topic"]: finding for finding in found["findings"]}
    assert found["passed"] is True
    assert topics["packages"]["level"] == "ok"
    # The caches of what is deployed are looked at, and no home is named.
    assert "~/edgeattn-deployed/cache" in json.dumps(found)
    assert str(lab.boards[1].home) not in json.dumps(found)


def test_open_sizes_are_measured_as_tensorrt_is_tuned_or_one_sample_at_a_time(
    lab: Lab, tmp_path: Path
) -> None:
    with Bundle.open(lab.bundles[0]) as bundle:
        assert measured_shapes(bundle) == {"tokens": (1, 14, 14, 96)}
    tuned = ShapeProfile(opt={"tokens": (5, 14, 14, 96)})
    request = TensorRtRequest(options=TensorRtOptions(profiles=(tuned,)))
    graph = lab.folder / "net.onnx"
    write_bundle(graph, tmp_path / "tuned.zip", plugin="none", tensorrt=request)
    with Bundle.open(tmp_path / "tuned.zip") as bundle:
        assert measured_shapes(bundle) == {"tokens": (5, 14, 14, 96)}
