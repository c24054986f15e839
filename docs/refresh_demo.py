"""Run the demo; write what it printed, and pictures of its report, for README.md: `make readme`."""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
import sys
from pathlib import Path

from edgeattn.profiling.environment import collect_environment

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGE = ROOT / "demo" / "mswin_nano.int8.html"
BLOCK = re.compile(
    r"(?<=<!-- demo:begin, written by `make readme` -->\n).*?(?=<!-- demo:end -->)", re.DOTALL
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1180, 1600


def main() -> None:
    """Measure the demo on this machine and replace the block and the pictures."""
    demo = [sys.executable, "-m", "edgeattn", "demo"]
    printed = subprocess.run(demo, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
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
    take_pictures()


def take_pictures() -> None:
    """Photograph the top of the page, for light and for dark readers."""
    from playwright.sync_api import sync_playwright

    browser_path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser_path is None:
        sys.exit("the pictures of README.md need chromium: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"]
        )
        for scheme in ("light", "dark"):
            context = browser.new_context(
                viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme
            )
            page = context.new_page()
            page.goto(PAGE.as_uri())
            page.screenshot(path=ROOT / "docs" / f"report-{scheme}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
