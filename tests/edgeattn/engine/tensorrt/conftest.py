"""A GPU for tests of what works on one: a stand-in, or a real one."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator

import pytest

from edgeattn.engine.tensorrt import device
from tests import cuda_runtime_standin, pycuda_standin
from tests.pycuda_standin import Ledger


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
