"""The stand-in of a GPU for tests of what works on one."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from edgeattn.engine.tensorrt import device
from tests import cuda_runtime_standin, pycuda_standin
from tests.pycuda_standin import Ledger


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A GPU of pycuda's and cuda-python's stand-ins; whatever a test leaves there fails it."""
    device._retained.cache_clear()
    ledger = Ledger()
    modules = pycuda_standin.install(ledger) | cuda_runtime_standin.install(ledger)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield ledger
    device._retained.cache_clear()
    assert ledger.is_empty, vars(ledger)
