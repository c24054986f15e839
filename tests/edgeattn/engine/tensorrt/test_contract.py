"""What our classes promise, tried behind NVIDIA's real bindings of every version.

A file `*_contract.py` beside this one holds tests that import `tensorrt`. They run here, all of a
version in one process in which that import gives the bindings. A file that holds for some versions
alone names them in `VERSIONS`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.tensorrt_bindings import VERSIONS, bindings

pytestmark = pytest.mark.bindings

CONTRACTS = sorted(set(Path(__file__).parent.glob("*_contract.py")) - {Path(__file__)})


def versions_of(contract: Path) -> tuple[str, ...]:
    """Read for which versions a file holds, without importing it."""
    for node in ast.parse(contract.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VERSIONS":
            return ast.literal_eval(node.value)
    return VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_our_classes_keep_their_contracts(version):
    files = [str(path) for path in CONTRACTS if version in versions_of(path)]
    printed = bindings(version).run("-m", "pytest", "-v", "-p", "no:cacheprovider", *files)
    last = printed.strip().splitlines()[-1]
    assert " passed" in last, printed
    assert "skipped" not in last, printed


def test_every_contract_holds_for_versions_that_are_looked_at():
    assert CONTRACTS
    for contract in CONTRACTS:
        assert set(versions_of(contract)) <= set(VERSIONS), contract.name
