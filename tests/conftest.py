"""What a test may need of the machine, and how often drawn cases are drawn."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from edgeattn.plugin.toolchain import CROSS_COMPILER, find_nvcc
from tests import tensorrt_bindings
from tests.pages import DESK

# The same cases on every run: a failure seen once is seen again, by everybody.
settings.register_profile(
    "repeatable", derandomize=True, database=None, deadline=None, max_examples=60
)
settings.load_profile("repeatable")

# CUDA_ERROR_NO_DEVICE, CUDA_ERROR_STUB_LIBRARY
CUDA_NOT_THERE = (100, 34)
# The longest that a test which is marked slow may take; `make test-slow` prints stacks just before.
SLOW_S = 3600
BROWSERS = ("chromium", "chromium-browser", "google-chrome")  # what playwright is told to drive


def has_gpu() -> bool:
    """Tell whether the NVIDIA driver is there and sees a device; a broken driver is an error."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:  # no driver on this machine
        return False
    status = cuda.cuInit(0)
    if status in CUDA_NOT_THERE:
        return False
    if status != 0:
        raise RuntimeError(f"cuInit failed with CUDA error {status}")
    return True


def has_tensorrt() -> bool:
    """Tell whether TensorRT's Python package is installed."""
    return importlib.util.find_spec("tensorrt") is not None


def is_jetson() -> bool:
    """Tell whether this is a Jetson with an L4T release."""
    return Path("/etc/nv_tegra_release").is_file()


def has_browser() -> bool:
    """Tell whether a browser that can run without a screen is on the path, and what drives it."""
    drives = importlib.util.find_spec("playwright") is not None
    return drives and any(shutil.which(name) for name in BROWSERS)


def has_nvcc() -> bool:
    """Tell whether CUDA's compiler is here, of the system or of the pip wheels."""
    return find_nvcc() is not None


def can_cross_build() -> bool:
    """Tell whether libraries for aarch64 can be built and tried here."""
    return has_nvcc() and all(shutil.which(name) for name in (CROSS_COMPILER, "qemu-aarch64"))


def has_ssh_server() -> bool:
    """Tell whether OpenSSH's server can play a board here."""
    places = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    return all(shutil.which(name, path=places) for name in ("ssh", "ssh-keygen", "sshd"))


PROBES: dict[str, Callable[[], bool]] = {
    "gpu": has_gpu,
    "tensorrt": has_tensorrt,
    "jetson": is_jetson,
    "browser": has_browser,
    "nvcc": has_nvcc,
    "cross": can_cross_build,
    "bindings": tensorrt_bindings.have_bindings,
    "ssh": has_ssh_server,
}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Start a browser without a screen."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium, request) -> Iterator[Any]:
    """Open a page; at the end, whatever it said or asked for fails the test."""
    contexts, complaints, requests = [], [], []

    def open_page(path: Path, **options: Any) -> Any:
        context = chromium.new_context(**{"viewport": DESK, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: requests.append(asked.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert len(requests) == len(contexts)
    assert all(url.startswith("file:") for url in requests)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a machine promise what it has."""
    parser.addoption(
        "--require",
        default="",
        metavar="MARKERS",
        help=f"fail, instead of skip, tests that need these: {','.join(PROBES)}",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a `--require` that names no probe; take signals as a terminal's programs do.

    Whatever starts the tests in the background or under nohup has signals ignored, and so would
    every program that a test starts and means to stop with one.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    tensorrt_bindings.promised = "bindings" in _required(config)
    unknown = sorted(_required(config) - PROBES.keys())
    if unknown:
        raise pytest.UsageError(
            f"--require names {', '.join(unknown)}; expected some of {', '.join(PROBES)}"
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, the pages' commands: last, they keep one worker alone."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_S), append=False)


def pytest_collection_finish() -> None:
    """Take what was collected out of garbage collections."""
    _settle()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Likewise what a file's tests have loaded."""
    yield
    if nextitem is None or nextitem.path != item.path:
        _settle()


def _settle() -> None:
    """Spare later garbage collections all that there is now: every measurement begins with one."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose hardware or library is not there, or fail it where that was promised."""
    marked = {mark.name for mark in item.iter_markers()}
    missing = [name for name, probe in PROBES.items() if name in marked and not probe()]
    promised = [name for name in missing if name in _required(item.config)]
    if promised:
        pytest.fail(f"--require names {', '.join(promised)}, but it is not there", pytrace=False)
    if missing:
        why = f": {tensorrt_bindings.first_obstacle()}" if "bindings" in missing else ""
        pytest.skip(f"needs {', '.join(missing)}{why}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the largest of each figure that tests recorded under a name that begins so."""
    figures: dict[str, list[float]] = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name.startswith("largest "):
                figures.setdefault(name, []).append(value)
    if figures:
        terminalreporter.section("figures")
    for name, values in sorted(figures.items()):
        terminalreporter.line(f"{name}: {max(values):.3g} ({len(values)} tests)")


def _required(config: pytest.Config) -> set[str]:
    return {name.strip() for name in config.getoption("--require").split(",") if name.strip()}
