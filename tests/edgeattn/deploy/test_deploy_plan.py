"""The wheel, the requirements and the plan of a deployment."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import edgeattn
from edgeattn.bundle.recipe import Recipe
from edgeattn.deploy import plan as plans
from edgeattn.deploy.plan import check_board, make_plan, make_shipment
from edgeattn.deploy.requirements import Requirements, board_requirements
from edgeattn.deploy.wheel import pack_wheel, wheel_name
from edgeattn.errors import DeployError, TargetError

CHECKOUT = Path(edgeattn.__file__).parents[1]
FACTS = {
    "folder": "/home/me/edgeattn", "python": "3.10.12", "executable": "/usr/bin/python3",
    "machine": "aarch64", "tensorrt": "10.3.0", "cuda": "12.6",
    "l4t": "# R36 (release), REVISION: 4.3", "model": "NVIDIA Jetson Orin Nano",
    "free_bytes": 1 << 40, "deployed": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("tensorrt", "cuda", "expected"),
    [
        ("", "", Requirements()),
        # JetPack 6.2: NumPy 2 is misread, and CUDA's Python is not newer than the driver's CUDA.
        (
            "10.3.0",
            "12.6",
            Requirements(("plugin",), ("pycuda>=2024.1", "numpy<2", "cuda-python>=12,<12.7")),
        ),
        (
            "10.13.3.9",
            "13.0",
            Requirements(("plugin",), ("pycuda>=2024.1", "numpy<2", "cuda-python>=13,<13.1")),
        ),
        (
            "10.16.2.10",
            "13.2",
            Requirements(("plugin",), ("pycuda>=2024.1", "cuda-python>=13,<13.3")),
        ),
        ("11.0.0", "", Requirements(("plugin",), ("pycuda>=2024.1",))),
    ],
)
def test_what_a_board_needs_follows_from_what_it_has(
    tensorrt: str, cuda: str, expected: Requirements
) -> None:
    assert board_requirements({"tensorrt": tensorrt, "cuda": cuda}) == expected


@pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None or not (CHECKOUT / "pyproject.toml").is_file(),
    reason="needs hatchling and a checkout",
)
def test_the_wheel_holds_what_the_build_tool_would_put_into_it(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=CHECKOUT,
        check=True,
        capture_output=True,
    )
    (built,) = tmp_path.glob("*.whl")
    assert built.name == wheel_name()
    with zipfile.ZipFile(built) as theirs, zipfile.ZipFile(io.BytesIO(pack_wheel())) as ours:
        assert set(ours.namelist()) == set(theirs.namelist())
        entry_points = f"edgeattn-{edgeattn.__version__}.dist-info/entry_points.txt"
        data = "edgeattn/_data/plugins/CMakeLists.txt"
        for name in (entry_points, "edgeattn/errors.py", "edgeattn/_data/calib/README.md", data):
            if name in theirs.namelist():
                assert ours.read(name) == theirs.read(name)


def test_the_wheel_is_the_same_each_time_and_its_record_is_right() -> None:
    wheel = pack_wheel()
    assert wheel == pack_wheel()
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        names = archive.namelist()
        (record,) = (name for name in names if name.endswith("/RECORD"))
        rows = archive.read(record).decode().splitlines()
        assert [row.partition(",")[0] for row in rows] == names
        sizes = {row.split(",")[0]: row.split(",")[2] for row in rows if row.split(",")[2]}
        assert all(archive.getinfo(name).file_size == int(size) for name, size in sizes.items())
        assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_an_installed_wheel_packs_itself_to_the_same_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / wheel_name()
    wheel.write_bytes(pack_wheel())
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        "import sys; from edgeattn.deploy.wheel import pack_wheel; import edgeattn;"
        f"assert edgeattn.__file__.startswith({str(site)!r});"
        "sys.stdout.buffer.write(pack_wheel())"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}"],
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout == wheel.read_bytes()


@pytest.fixture
def shipped(tmp_path: Path) -> Any:
    bundle, wheel = tmp_path / "my net (v2).zip", tmp_path / "edgeattn-0.1.0-py3-none-any.whl"
    bundle.write_bytes(b"bundle")
    wheel.write_bytes(b"wheel")

    def make(**options: Any) -> plans.Shipment:
        return make_shipment(bundle, wheel, **options)

    return make


def step(plan: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (step for step in plan["steps"] if step["name"] == name)
    return dict(found)


def test_a_plan_has_the_steps_and_stays_in_its_folder(shipped: Any) -> None:
    plan = make_plan(shipped(), FACTS, ["--duration", "1"])
    json.dumps(plan)
    here = f"/home/me/edgeattn/deployments/{plan['id']}"
    assert plan["id"].startswith("my-net-v2-")
    assert [step["name"] for step in plan["steps"]] == ["environment", "doctor", "build", "profile"]
    create, own, rest = step(plan, "environment")["commands"]
    assert create == [
        "/usr/bin/python3", "-m", "venv", "--clear", "--system-site-packages", plan["environment"],
    ]  # fmt: skip
    assert own[-1] == f"{here}/wheels/edgeattn-0.1.0-py3-none-any.whl"
    assert "--no-deps" in own
    assert rest[4:] == [f"{own[-1]}[plugin]", "pycuda>=2024.1", "numpy<2", "cuda-python>=12,<12.7"]
    assert step(plan, "build")["commands"] == [
        [f"{here}/edgeattn", "build", "bundle.zip", "-o", "model.engine"]
    ]
    assert step(plan, "profile")["commands"] == [
        [
            f"{here}/edgeattn",
            "profile",
            "model.engine",
            "--duration",
            "1",
            "-o",
            "model.profile.json",
        ]
    ]
    made = [path for step in plan["steps"] for path in (*step["creates"], step["record"])]
    assert all(path.startswith("/home/me/edgeattn/") for path in made)


def test_the_same_is_the_same_deployment_and_anything_else_another(
    shipped: Any, tmp_path: Path
) -> None:
    def name(shipment: Any = None, **facts: str) -> str:
        return str(make_plan(shipment or shipped(), FACTS | facts)["id"])

    assert name() == name(free_bytes="3", deployed="x")
    assert name() == make_plan(shipped(), FACTS, ["--duration", "9"])["id"]
    names = {name(), name(tensorrt="10.16.2"), name(l4t="# R36"), name(python="3.12.3")}
    (tmp_path / "edgeattn-0.1.0-py3-none-any.whl").write_bytes(b"another")
    names.add(name())
    assert len(names) == 5


def test_environments_are_shared_by_deployments_that_need_the_same(
    shipped: Any, tmp_path: Path
) -> None:
    before = make_plan(shipped(), FACTS)
    (tmp_path / "my net (v2).zip").write_bytes(b"another")
    after = make_plan(shipped(), FACTS)
    assert before["id"] != after["id"]
    assert before["environment"] == after["environment"]
    assert make_plan(shipped(), FACTS | {"cuda": "12.8"})["environment"] != after["environment"]


def test_a_wheelhouse_is_all_that_an_offline_board_takes(shipped: Any, tmp_path: Path) -> None:
    house = tmp_path / "house"
    house.mkdir()
    with pytest.raises(DeployError, match="house holds no packages"):
        shipped(wheelhouse=house)
    for name in ("onnx-1.18-cp310.whl", "pycuda-2025.1.tar.gz", "notes.txt", "edgeattn-0.1.0.whl"):
        (house / name).write_bytes(name.encode())
    plan = make_plan(shipped(wheelhouse=house), FACTS)
    assert [file["name"] for file in plan["files"]] == [
        "bundle.zip",
        "wheels/edgeattn-0.1.0-py3-none-any.whl",
        "wheels/onnx-1.18-cp310.whl",
        "wheels/pycuda-2025.1.tar.gz",
    ]
    rest = step(plan, "environment")["commands"][2]
    found = rest[rest.index("--find-links") + 1]
    assert "--no-index" in rest
    assert found == f"/home/me/edgeattn/deployments/{plan['id']}/wheels"


def test_a_public_key_goes_along(shipped: Any, tmp_path: Path) -> None:
    key = tmp_path / "release.pem"
    key.write_text("key")
    plan = make_plan(shipped(public_key=key), FACTS)
    (command,) = step(plan, "build")["commands"]
    assert command[3:5] == ["--public-key", "public-key.pem"]
    assert "public-key.pem" in [file["name"] for file in plan["files"]]
    assert step(plan, "environment")["commands"][2][-1] == "cryptography>=42"
    bare = FACTS | {"tensorrt": ""}
    assert board_requirements(bare, is_signed=True) == Requirements((), ("cryptography>=42",))


def test_the_doctor_may_be_left_out(shipped: Any) -> None:
    plan = make_plan(shipped(), FACTS, examine=False)
    assert [step["name"] for step in plan["steps"]] == ["environment", "build", "profile"]
    assert plan["id"] == make_plan(shipped(), FACTS)["id"]


@pytest.mark.parametrize(
    ("engine", "targets", "model", "is_refused"),
    [
        ("auto", ("jetson-thor",), "NVIDIA Jetson Orin Nano Developer Kit", True),
        ("tensorrt", ("jetson-thor", "desktop"), "NVIDIA Jetson AGX Orin", True),
        ("auto", ("jetson-orin-nano",), "NVIDIA Jetson Orin Nano Developer Kit", False),
        ("auto", (), "NVIDIA Jetson Orin Nano Developer Kit", False),
        ("cpu", ("jetson-thor",), "NVIDIA Jetson Orin Nano Developer Kit", False),
        ("auto", ("jetson-thor",), "", False),
    ],
)
def test_a_bundle_for_another_board_is_refused_before_it_is_sent(
    engine: str, targets: tuple[str, ...], model: str, is_refused: bool
) -> None:
    facts = FACTS | {"model": model}
    if is_refused:
        with pytest.raises(TargetError, match=r"the bundle is for jetson-thor.*, and orin-a is a"):
            check_board(Recipe(engine, targets), facts, "orin-a")
    else:
        check_board(Recipe(engine, targets), facts, "orin-a")


def test_a_board_whose_python_is_too_old_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(DeployError, match=r"^/usr/bin/python3 on orin-a is Python 3\.8\.10; edge"):
        check_board(Recipe(), FACTS | {"python": "3.8.10"}, "orin-a")
