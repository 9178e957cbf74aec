"""Requests from images."""

import pytest
from headwise.messages import Question, explain_request


def test_labels_are_a_list() -> None:
    """The characters of one string would be explained as labels of one character."""
    with pytest.raises(TypeError, match=r"expected a list of labels, found the string '38': pass \['38'\]"):
        Question("38")
    assert list(explain_request([], "", "", Question(["38"])).labels) == ["38"]
