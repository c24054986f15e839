"""Run the demo and write what it printed into README.md: `make readme`."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from pathlib import Path

from edgeattn.profiling.environment import collect_environment

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(
    r"(?<=<!-- demo:begin, written by `make readme` -->\n).*?(?=<!-- demo:end -->)", re.DOTALL
)


def main() -> None:
    """Measure the demo on this machine and replace the block."""
    demo = [sys.executable, "-m", "edgeattn", "demo"]
    printed = subprocess.run(demo, cwd=README.parent, check=True, stdout=subprocess.PIPE, text=True)
    machine = collect_environment()
    today = datetime.datetime.now(datetime.timezone.utc).date()
    block = (
        f"```text\n{printed.stdout.rstrip()}\n```\n\n"
        f"`edgeattn demo`, {today}: {machine.cpu_model}, {machine.usable_cores} cores, "
        f"{machine.operating_system}, ONNX Runtime {machine.tools['onnxruntime']}.\n\n"
    )
    text, found = BLOCK.subn(lambda _: block, README.read_text())
    if found != 1:
        sys.exit(f"{README} has {found} blocks for the demo's table; expected one")
    README.write_text(text)


if __name__ == "__main__":
    main()
