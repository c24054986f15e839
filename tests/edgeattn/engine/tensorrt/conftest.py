"""A GPU for tests of what works on one, a stand-in; and TensorRT's builder, played on it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgeattn.engine.tensorrt import device
from tests import cuda_runtime_standin, pycuda_standin
from tests.pycuda_standin import Ledger

if TYPE_CHECKING:
    from tests.tensorrt_builder_double import Script


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A GPU of pycuda's and cuda-python's stand-ins; whatever a test leaves there fails it."""
    # Not cleared: where a real context is retained, it stays so.
    retained = functools.cache(device._retained.__wrapped__)
    monkeypatch.setattr(device, "_retained", retained)
    ledger = Ledger()
    modules = pycuda_standin.install(ledger) | cuda_runtime_standin.install(ledger)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield ledger
    assert ledger.is_empty, vars(ledger)


@pytest.fixture
def script(gpu: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    """Play TensorRT's builder where `import tensorrt` gives NVIDIA's bindings.

    The machine has much memory and an empty cache folder.
    """
    from edgeattn.engine.tensorrt import build, plugin_library
    from edgeattn.engine.tensorrt.memory import MemoryState
    from edgeattn.plugin import check
    from tests.tensorrt_builder_double import Script

    plenty = MemoryState(64 << 30, 60 << 30, 0, False, 70 << 30, 80 << 30)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "read_memory", lambda device: plenty)
    monkeypatch.setattr(check, "local_architectures", lambda: ())
    monkeypatch.setattr(check, "find_cuda_program", lambda name: None)
    monkeypatch.setattr(plugin_library, "_loaded", {})
    script = Script(ledger=gpu)
    script.install(monkeypatch)
    return script
