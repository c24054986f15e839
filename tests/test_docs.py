"""The documents tell the truth: their commands run, their links lead somewhere."""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").glob("*.md")) + sorted(ROOT.glob("*/README.md"))
PAGES = [page.relative_to(ROOT).as_posix() for page in PAGES]

# ```console blocks hold commands after `$ `, ```python blocks are run or written to `file=`,
# ```toml blocks are written.
# ```sh blocks are for the reader's own shell: they install, clone or take a whole machine. What
# they have edgeattn do is held to its options all the same.
BLOCK = re.compile(
    r"^```(?P<kind>console|python|toml)(?P<options>[^\n]*)\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
TYPED = re.compile(r"^```(?:console|sh)\b[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?P<target>[^)\s]+)\)")


class Block(NamedTuple):
    kind: str
    options: dict[str, str]
    body: str


def blocks(page):
    """List what a page has to run."""
    found = BLOCK.finditer((ROOT / page).read_text())
    return [
        Block(match["kind"], dict(o.split("=") for o in match["options"].split()), match["body"])
        for match in found
    ]


def run_block(block, folder):
    """Run one block; returns what it printed."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    if "file" in block.options:
        (folder / block.options["file"]).write_text(block.body)
        return
    if block.kind == "python":
        commands = [[sys.executable, "-c", block.body]]
    else:
        lines = [line for line in block.body.splitlines() if line.startswith("$ ")]
        commands = [["/bin/sh", "-c", line.removeprefix("$ ")] for line in lines]
    for command in commands:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == int(block.options.get("exit", "0")), (command, done.stderr)


def marked(page):
    """A page as a test's parameter, with the markers that its blocks need, such as needs=nvcc."""
    needs = {block.options["needs"] for block in blocks(page) if "needs" in block.options}
    return pytest.param(page, marks=[getattr(pytest.mark, name) for name in sorted(needs)])


@pytest.mark.parametrize("page", [marked(page) for page in PAGES if blocks(page)])
def test_what_a_page_shows_runs(page, tmp_path):
    for block in blocks(page):
        run_block(block, tmp_path)


def typed_commands(page):
    """List what a page has its reader type after `edgeattn`, whether it is run here or not."""
    lines = "\n".join(TYPED.findall((ROOT / page).read_text())).replace("\\\n", " ").splitlines()
    found = (re.match(r"(?:\$ )?edgeattn (.*)", line) for line in lines)
    return [match[1].partition(" #")[0] for match in found if match]


@pytest.mark.parametrize(
    ("page", "typed"), [(page, typed) for page in PAGES for typed in typed_commands(page)]
)
def test_each_command_of_a_page_is_spelt_as_the_command_line_has_it(page, typed):
    from edgeattn.cli.main import cli

    name, *words = (word for word in shlex.split(typed) if word not in ("-v", "--debug"))
    command = cli.get_command(click.Context(cli), name)
    if isinstance(command, click.Group) and not words[0].startswith("-"):
        command = command.get_command(click.Context(command), words.pop(0))
    assert command is not None, typed
    with contextlib.suppress(click.exceptions.Exit):  # --help
        command.make_context(name, words)  # reads the options and runs nothing


def anchors(page):
    """The headings of a page as links spell them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for match in LINK.finditer((ROOT / page).read_text()):
        target, _, anchor = match["target"].partition("#")
        if target.startswith(("http://", "https://")):
            continue
        linked = (ROOT / page).parent / target if target else ROOT / page
        assert linked.exists(), match[0]
        assert not anchor or anchor in anchors(linked), match[0]


def test_the_readme_names_each_verb_and_no_other():
    from edgeattn.cli.main import VERBS

    section = (ROOT / "README.md").read_text().partition("## The verbs")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(VERBS)


def test_each_verb_is_shown_in_the_main_path():
    from edgeattn.cli.main import VERBS

    shown = " ".join(block.body for block in blocks("docs/main-path.md"))
    assert all(f"edgeattn {verb}" in shown for verb in VERBS if verb != "demo")


def test_each_document_is_reached_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    missing = [page for page in PAGES if page.startswith("docs/") and f"({page})" not in readme]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_each_make_command_of_a_page_exists(page):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = re.findall(
        r"(?:`|^)make ([a-z-]+(?: [a-z-]+)*)", (ROOT / page).read_text(), re.MULTILINE
    )
    assert {target for names in named for target in names.split()} <= targets
