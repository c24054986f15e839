"""What is told of an error, ours or a library's."""

from __future__ import annotations

import pytest

from edgeattn import errors
from edgeattn.errors import EdgeAttnError, first_line, root_of


def test_every_error_is_the_toolkits_and_says_what_and_what_to_do() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    assert len(classes) > 8
    for error in classes:
        assert issubclass(error, EdgeAttnError)
        raised = error("what is wrong", "what to do")
        assert (str(raised), raised.message, raised.hint) == (
            "what is wrong",
            "what is wrong",
            "what to do",
        )
        assert error("what is wrong").hint == ""


def test_the_message_told_is_that_of_the_root_in_one_line() -> None:
    def nested() -> None:
        try:
            raise KeyError("\nthe reason\nand more")
        except KeyError as err:
            raise RuntimeError("a long story") from err

    with pytest.raises(RuntimeError) as error:
        nested()
    assert first_line(error.value) == "KeyError: '\\nthe reason\\nand more'"
    assert first_line(ValueError("first\nsecond")) == "ValueError: first"
    assert first_line(ValueError()) == "ValueError"
    assert isinstance(root_of(error.value), KeyError)
