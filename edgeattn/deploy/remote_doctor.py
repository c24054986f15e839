"""Examine a board from here: with what is deployed there, or before anything is.

Before, the source of this edgeattn is lent to the board's own Python for as long as it looks, and
what a deployment would bring along is not counted as missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgeattn.deploy.deploy import Reach, connected
from edgeattn.deploy.wheel import distribution_files, pack, package_files
from edgeattn.errors import DeployError

# What a deployment installs into its own environment, or builds.
_BROUGHT = ("packages", "optional packages", "pycuda", "cuda-python", "NumPy", "plugin")
# What no examination reads.
_LEFT_OUT = ("edgeattn/models/weights/", "edgeattn/_data/calib/")


def examine_board(
    destination: str, reach: Reach | None = None, *, selftest: bool = False
) -> dict[str, Any]:
    """Examine a board over SSH. Nothing is left there.

    Args:
        destination: Its address.
        reach: How it is reached.
        selftest: Run the self-test too, which needs a deployment on the board.

    Returns:
        What `edgeattn doctor --json` prints.

    Raises:
        DeployError: If it cannot be reached, or its Python lacks what the examination needs.
    """
    files = dict(sorted((*package_files(), *distribution_files())))
    source = pack({n: data for n, data in files.items() if not n.startswith(_LEFT_OUT)})
    with connected([destination], reach) as [(_, board)]:
        try:
            answer = board.examine(source, selftest=selftest)
        except DeployError as err:
            if "No module named" in err.message:
                raise DeployError(
                    f"{err.message}: the board's own Python has it not, and nothing is deployed "
                    "there",
                    "sudo apt install python3-numpy on the board, or deploy a bundle first",
                ) from err
            raise
    found: dict[str, Any] = answer["examination"]
    if not answer["deployed"]:
        found["findings"] = [before_deployment(finding) for finding in found["findings"]]
        found["passed"] = all(finding["level"] != "error" for finding in found["findings"])
    return found


def before_deployment(finding: Mapping[str, Any]) -> dict[str, Any]:
    """Take back what a deployment sees to by itself."""
    if finding["topic"] in _BROUGHT and finding["level"] in ("warning", "error"):
        return {**finding, "level": "note", "fix": "edgeattn deploy sees to it"}
    return dict(finding)
