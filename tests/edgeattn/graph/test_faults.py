"""A fault is a sentence: it goes where sentences go, and still knows its parts."""

from __future__ import annotations

import copy
import json

from edgeattn.graph.faults import Fault

FAULT = Fault("it gives int16", "cast", "type", is_refused=False)


def test_it_is_its_sentence() -> None:
    assert FAULT == "cast: it gives int16"
    assert str(Fault("the graph is odd")) == "the graph is odd"
    assert json.loads(json.dumps([FAULT])) == ["cast: it gives int16"]
    assert {FAULT: 1}["cast: it gives int16"] == 1


def test_it_knows_its_parts_and_copies_do_too() -> None:
    for fault in (FAULT, copy.copy(FAULT), copy.deepcopy(FAULT)):
        assert (fault.reason, fault.node, fault.topic) == ("it gives int16", "cast", "type")
        assert fault.is_refused is False
        assert fault == FAULT
    assert Fault("it is refused").is_refused
