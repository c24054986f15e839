"""What was chosen once is chosen again, without whatever it was chosen by."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgeattn.artifacts import Manifest
from edgeattn.engine.repeated_choice import RememberedChoice, repeated_choice
from edgeattn.engine.typed import Fusing, fusing_of
from edgeattn.graph.fusion.found import GlobalDecision
from edgeattn.spec import AttentionSpec, HeadGroup

SPEC = AttentionSpec(32, 2, (HeadGroup(2, (0, 0)),))
ASKED = [
    (SPEC, (1, 14, 14), "fp32"),
    (SPEC, (1, 14, 14), "fp16"),
    (SPEC, (4, 14, 14), "fp32"),
    (SPEC, None, "fp32"),
    (replace(SPEC, softmax_scale=1.0), (1, 14, 14), "fp32"),
]


@pytest.mark.parametrize("taken", range(len(ASKED)))
def test_each_attention_is_decided_as_it_was_by_all_that_was_told_of_it(taken):
    remembered = RememberedChoice(
        lambda *asked: GlobalDecision(asked == ASKED[taken], f"number {ASKED.index(asked)}")
    )
    first = [remembered(*asked) for asked in ASKED]
    assert [decision.reason for decision in first] == [f"number {n}" for n in range(len(ASKED))]
    again = repeated_choice(json.loads(json.dumps(remembered.made)))
    assert [again(*asked).takes for asked in ASKED] == [decision.takes for decision in first]
    assert again(*ASKED[0]).reason


def test_what_was_never_decided_is_left():
    assert not repeated_choice({})(*ASKED[0]).takes


def test_a_manifest_says_how_its_graph_was_fused():
    def read(**options):
        return fusing_of(Manifest("engine", options=options))

    assert read() == Fusing(False, False)
    assert read(fuse=True) == Fusing(True, False)
    assert read(fuse=True, global_attention=True) == Fusing(True, True)
    remembered = RememberedChoice(lambda *asked: GlobalDecision(True, "it is faster"))
    remembered(*ASKED[2])
    choice = read(fuse=True, global_attention=remembered.made).global_attention
    assert choice(*ASKED[2]).takes
    assert not choice(*ASKED[1]).takes
