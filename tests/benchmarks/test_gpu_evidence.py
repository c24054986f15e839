"""The script for a machine with a GPU: its order of steps and its verdict, with programs made up.

What the steps themselves do needs the GPU; that one failing step stops no other and that nothing
failed passes for a success does not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.window_cases import all_cases
from tests.plugins.kernel_cases import KERNEL_CASES

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_evidence.sh"

# In the place of Python: notes how it was called, builds an empty library, fails where told to.
PYTHON = """#!/bin/bash
echo "$*" >>"$CALLS"
case "$*" in
  -c*torch*) echo "${GPU-90 80000 Made up GPU}" ;;
  -c*) exit 1 ;;
  *"plugin build"*) [[ $FAILING == *build* ]] && exit 3; mkdir -p "${@: -1}"
    touch "${@: -1}/libedgeattn_kernels.so" ;;
  *"-m pytest"*) echo "7 passed in 1.0s"; [[ $FAILING != *pytest* ]] ;;
  *"-m benchmarks"*) echo "5 cases, 0 wrong or failed, 1 goals missed"; [[ $FAILING != *bench* ]] ;;
esac
"""
SANITIZER = """#!/bin/bash
echo "compute-sanitizer $*" >>"$CALLS"
[[ "$FAILING" != *"$2"* ]] || exit 9
"""
CHECKERS = ["memcheck", "racecheck", "initcheck", "synccheck"]
DEFAULT_STEPS = ["build", "tests", *CHECKERS, "benchmark", "peers"]


class Machine:
    """A folder of made-up programs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        self.calls = folder / "calls"
        for name, text in (
            ("python", PYTHON),
            ("compute-sanitizer", SANITIZER),
            ("cmake", "#!/bin/bash\nexit 4\n"),
        ):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def run(
        self, *steps: str, failing: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        variables = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "PYTHON": str(self.folder / "python"),
            "CALLS": str(self.calls),
            "FAILING": failing,
        }
        return subprocess.run(
            [SCRIPT, self.out, *steps],
            env=os.environ | variables | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def statuses(self) -> dict[str, str]:
        """Read the summary: how each step ended."""
        lines = (self.out / "summary.txt").read_text().splitlines()
        found = (
            re.match(r"([\w-]+) +(?:\d+ s  )?(ok|FAILED.*|not run.*)$", line) for line in lines
        )
        return {match[1]: match[2] for match in found if match}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_all_steps_run_and_their_logs_stay(machine: Machine) -> None:
    process = machine.run()
    assert process.returncode == 0, process.stdout + process.stderr
    assert machine.statuses() == dict.fromkeys([*DEFAULT_STEPS, "compile-peers"], "ok")
    assert process.stdout == (machine.out / "summary.txt").read_text()
    assert "Made up GPU, sm_90" in process.stdout
    assert "7 passed" in process.stdout
    assert "5 cases, 0 wrong or failed, 1 goals missed" in process.stdout
    logs = {path.name for path in machine.out.iterdir()}
    assert logs == {"build.log", "tests.log", "sanitizer.log", "benchmark.log", "summary.txt"}


@pytest.mark.parametrize(
    ("failing", "steps"),
    [
        ("pytest", {"tests"}),
        ("racecheck", {"racecheck"}),
        ("memcheck", {"memcheck"}),
        ("bench", {"compile-peers", "benchmark", "peers"}),
    ],
)
def test_a_failing_step_stops_no_other_and_is_no_success(
    machine: Machine, failing: str, steps: set[str]
) -> None:
    process = machine.run(failing=failing)
    assert process.returncode == 1
    statuses = machine.statuses()
    assert {step for step, status in statuses.items() if status != "ok"} == steps
    assert set(statuses) == {*DEFAULT_STEPS, "compile-peers"}


def test_without_a_library_nothing_runs_and_the_summary_says_so(machine: Machine) -> None:
    process = machine.run(failing="build")
    assert process.returncode == 1
    statuses = machine.statuses()
    assert statuses.pop("build") == "FAILED: exit code 4"  # CMake was tried too
    assert set(statuses.values()) == {"not run: there is no library"}


def test_named_steps_run_alone_after_the_build(machine: Machine) -> None:
    process = machine.run("racecheck")
    assert process.returncode == 0, process.stdout
    assert machine.statuses() == {"build": "ok", "racecheck": "ok"}
    (call,) = [c for c in machine.calls.read_text().splitlines() if "compute-sanitizer" in c]
    assert "--tool racecheck" in call


def test_the_long_step_runs_when_named(machine: Machine) -> None:
    machine.run("all-peers")
    assert machine.statuses() == {"build": "ok", "all-peers": "ok"}
    assert "--peers all" in machine.calls.read_text()


def test_a_machine_without_a_gpu_says_so(machine: Machine) -> None:
    process = machine.run(GPU="RuntimeError: no driver")
    assert process.returncode == 77
    assert process.stderr.endswith("sees no CUDA device: RuntimeError: no driver\n")


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_an_output_folder_must_be_named(arguments: tuple[str, ...]) -> None:
    process = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.startswith("usage:")


def test_a_misspelt_step_is_refused(machine: Machine) -> None:
    process = machine.run("test")
    assert process.returncode == 2
    assert "there is no step test" in process.stderr


def _list(name: str) -> list[str]:
    """Read a list of words from the script."""
    body = re.search(rf"^{name}=\((.*?)\)", SCRIPT.read_text(), re.MULTILINE | re.DOTALL)
    assert body
    return [word.strip("'") for word in body[1].split()]


def test_the_checked_cases_exist() -> None:
    names = _list("checked_cases")
    assert names
    assert set(names) <= KERNEL_CASES.keys()


def test_every_pattern_of_peers_names_a_case() -> None:
    from fnmatch import fnmatchcase

    for pattern in _list("peer_cases"):
        assert any(fnmatchcase(case.name, pattern) for case in all_cases()), pattern


def test_every_test_for_a_gpu_is_in_the_folders_that_the_script_runs() -> None:
    folders = [ROOT / name for name in _list("gpu_tests")]
    marked = [
        path
        for path in (ROOT / "tests").rglob("*.py")
        if re.search(r"pytest\.mark\.gpu\b", path.read_text()) and path != Path(__file__).resolve()
    ]
    assert marked
    for path in marked:
        assert any(path == folder or folder in path.parents for folder in folders), path


def test_the_steps_together_take_less_than_nine_minutes() -> None:
    text = SCRIPT.read_text()
    limits = {
        name: int(limit) for name, limit in re.findall(r'run_step "?\$?([\w-]+)"? (\d+)', text)
    }
    total, for_peers = map(int, re.findall(r"(?:total|peers)_s=(\d+)", text))
    side_by_side = max(limits[name] for name in ("tests", "tool", "compile-peers"))
    before_timings = limits["build"] + side_by_side
    assert total < 540
    assert before_timings + for_peers + 60 <= total


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_the_script_is_free_of_what_shellcheck_knows() -> None:
    subprocess.run(["shellcheck", SCRIPT], check=True, stdout=sys.stderr)
