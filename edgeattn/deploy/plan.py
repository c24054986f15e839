"""What a board is to do with a bundle: files, commands, and what each command has to leave.

The board's program knows nothing of edgeattn; everything that it runs stands here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgeattn.artifacts import sha256_of_bytes, sha256_of_file
from edgeattn.bundle.recipe import Recipe
from edgeattn.deploy.pieces import Piece, cut
from edgeattn.deploy.requirements import board_requirements
from edgeattn.deploy.software import LEAST_PYTHON
from edgeattn.errors import DeployError, TargetError
from edgeattn.targets import target_of_model

BUNDLE, PUBLIC_KEY = "bundle.zip", "public-key.pem"
ENGINE, REPORT, EXAMINATION = "model.engine", "model.profile.json", "doctor.json"
RESULTS = (ENGINE, f"{ENGINE}.json", "model.plugin.so", REPORT, EXAMINATION)
# What comes back, of a deployment that failed too.
FETCHED = (
    *(f"{ENGINE}.json", REPORT, EXAMINATION, "deployment.json", f"{ENGINE}.log"),
    *("environment.log", "doctor.log", "build.log", "profile.log"),
)
_PACKAGES = (".whl", ".tar.gz", ".zip")


@dataclass(frozen=True)
class Shipment:
    """What is sent to the boards, the same for all.

    Attributes:
        bundle: The bundle's file.
        files: Paths here, by the names that they get in a deployment's folder.
        pieces: Their pieces, by the same names.
        hashes: Their sha256, by the same names.
        wheel: The name of edgeattn's own wheel among them.
        is_offline: Whether pip may take nothing but these files.
    """

    bundle: Path
    files: Mapping[str, Path]
    pieces: Mapping[str, list[Piece]]
    hashes: Mapping[str, str]
    wheel: str
    is_offline: bool


def make_shipment(
    bundle: Path, wheel: Path, *, wheelhouse: Path | None = None, public_key: Path | None = None
) -> Shipment:
    """Collect what is sent.

    Args:
        bundle: The bundle.
        wheel: edgeattn's own wheel.
        wheelhouse: Folder of the packages that a board without a network needs.
        public_key: Key that the board checks the bundle's signature with.

    Raises:
        ArtifactError: If a file cannot be read.
        DeployError: If the wheelhouse holds no packages.
    """
    files = {BUNDLE: bundle, f"wheels/{wheel.name}": wheel}
    if wheelhouse is not None:
        found = sorted(p for p in wheelhouse.glob("*") if p.name.endswith(_PACKAGES))
        if not found:
            raise DeployError(
                f"{wheelhouse} holds no packages", "fill it with pip download or pip wheel"
            )
        files |= {f"wheels/{p.name}": p for p in found if not p.name.startswith("edgeattn-")}
    if public_key is not None:
        files[PUBLIC_KEY] = public_key
    return Shipment(
        bundle,
        files,
        {name: cut(path) for name, path in files.items()},
        {name: sha256_of_file(path) for name, path in files.items()},
        f"wheels/{wheel.name}",
        wheelhouse is not None,
    )


def make_plan(
    shipment: Shipment,
    facts: Mapping[str, Any],
    profile_arguments: Sequence[str] = (),
    *,
    examine: bool = True,
) -> dict[str, Any]:
    """Write down a deployment for one board.

    The same shipment for the same board gives the same name, so that it is gone on with, and is
    measured again if that is asked for in another way; another TensorRT or L4T on the board gives
    another.

    Args:
        shipment: What is sent.
        facts: What the board is, as `onboard.facts` tells it, with its `folder`.
        profile_arguments: Options of `edgeattn profile`.
        examine: Run the doctor first, whose errors end the deployment.

    Returns:
        The plan as `onboard.work` reads it.
    """
    is_signed = PUBLIC_KEY in shipment.files
    needs = board_requirements(facts, is_signed=is_signed)
    packages = {n: h for n, h in shipment.hashes.items() if n.startswith("wheels/")}
    environment_key = _key(facts["python"], facts["executable"], packages, needs.packages)
    board = [facts[name] for name in ("machine", "l4t", "tensorrt", "cuda")]
    key = _key(shipment.hashes, environment_key, board)
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", shipment.bundle.stem).strip("-") or "bundle"
    name = f"{stem[:40]}-{key}"
    root = PurePosixPath(facts["folder"])
    here, venv = root / "deployments" / name, root / "venvs" / environment_key
    launcher = str(here / "edgeattn")
    signed = ["--public-key", PUBLIC_KEY] if is_signed else []
    install = [str(venv / "bin/python"), "-m", "pip", "install"]
    offline = ["--no-index", "--find-links", str(here / "wheels")] if shipment.is_offline else []
    doctor = [launcher, "doctor", "--json"]
    wheel = str(here / shipment.wheel)
    extras = f"[{','.join(needs.extras)}]" if needs.extras else ""
    return {
        "id": name,
        "folder": str(here),
        "bundle": shipment.bundle.name,
        "environment": str(venv),
        "files": [
            {"name": file, "sha256": sha256, "pieces": [p.sha256 for p in shipment.pieces[file]]}
            for file, sha256 in shipment.hashes.items()
        ],
        "steps": [
            {
                "name": "environment",
                "record": str(venv / "edgeattn-environment.json"),
                "identity": [environment_key],
                "commands": [
                    [
                        facts["executable"],
                        "-m",
                        "venv",
                        "--clear",
                        "--system-site-packages",
                        str(venv),
                    ],
                    # The version says nothing about its content, and the system may have one too.
                    [*install, "--no-deps", "--no-index", "--force-reinstall", wheel],
                    [*install, *offline, wheel + extras, *needs.packages],
                ],
                "creates": [str(venv / "bin/edgeattn")],
            },
            *[_step(here, "doctor", doctor, EXAMINATION, output=EXAMINATION)] * examine,
            _step(
                here,
                "build",
                [launcher, "build", BUNDLE, *signed, "-o", ENGINE],
                ENGINE,
                f"{ENGINE}.json",
            ),
            _step(
                here,
                "profile",
                [launcher, "profile", ENGINE, *profile_arguments, "-o", REPORT],
                REPORT,
            ),
        ],
        "results": list(RESULTS),
    }


def check_board(recipe: Recipe, facts: Mapping[str, Any], board: str) -> None:
    """Refuse a board that a bundle cannot be deployed to, before anything is sent.

    Its Python has to be new enough, and if the bundle names boards, it has to be one of them. A
    board that is not known, or that builds for its CPU, is left to judge that for itself.

    Args:
        recipe: How the bundle is built.
        facts: What the board is, as `onboard.facts` tells it.
        board: Its name, for the message.

    Raises:
        DeployError: If its Python is too old.
        TargetError: If the bundle names boards, and this is none of them.
    """
    if tuple(int(part) for part in facts["python"].split(".")[:2]) < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        raise DeployError(
            f"{facts['executable']} on {board} is Python {facts['python']}; edgeattn needs {least}",
            "name a newer one with --python",
        )
    target = target_of_model(facts["model"])
    builds_plan = recipe.engine == "tensorrt" or (recipe.engine == "auto" and facts["tensorrt"])
    if target and builds_plan and recipe.targets and target.name not in recipe.targets:
        raise TargetError(
            f"the bundle is for {', '.join(recipe.targets)}, and {board} is a {target.name}",
            f"make it with --target {target.name}, or without --target for any",
        )


def _step(
    here: PurePosixPath, name: str, command: list[str], *creates: str, output: str = ""
) -> dict[str, Any]:
    return {
        "name": name,
        "record": str(here / f"{name}.done.json"),
        "identity": command,
        "commands": [command],
        "creates": [str(here / file) for file in creates],
        "output": output,
    }


def _key(*values: Any) -> str:
    return sha256_of_bytes(json.dumps(values, sort_keys=True).encode())[:12]
