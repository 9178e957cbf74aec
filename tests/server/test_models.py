"""A request's name and version lead to a model."""

from typing import cast

import pytest
from headwise.v1.bundle_pb2 import Bundle
from headwise_server.engines import Session
from headwise_server.errors import NotFound
from headwise_server.models import Model, Models, resolve


def models(**versions: tuple[int, ...]) -> Models:
    """Models of these names and versions, of which only the manifest is of consequence."""
    session = cast(Session, None)
    return {
        name: {n: Model(Bundle(name=name, version=str(n)), "", "onnxruntime", session, session) for n in numbers}
        for name, numbers in versions.items()
    }


def test_newest_version_is_the_default() -> None:
    """By number, not by spelling: 10 is newer than 9."""
    served = models(digits=(1, 9, 10))
    assert resolve(served, "digits", "").manifest.version == "10"
    assert resolve(served, "", "9").manifest.version == "9"


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [("flowers", "", "flowers"), ("digits", "2", "digits"), ("digits", "one", "one"), ("digits", "9" * 5000, "99")],
)
def test_unknown_model_or_version_says_what_is_served(name: str, version: str, message: str) -> None:
    """The error names what was asked for and what there is."""
    with pytest.raises(NotFound, match=message) as caught:
        resolve(models(digits=(1,)), name, version)
    assert "digits" in str(caught.value)


def test_model_must_be_named_where_there_are_several() -> None:
    """With two models an empty name is refused, naming both."""
    with pytest.raises(NotFound, match=r"digits.*other"):
        resolve(models(digits=(1,), other=(1,)), "", "")
