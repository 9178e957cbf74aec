"""Models under the names of the Open Inference Protocol."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from headwise.bundle import read_manifest
from headwise.v1.bundle_pb2 import Bundle
from headwise_server.inference import State
from headwise_server.model_descriptions import Served, all_served, index, served
from headwise_server.models import Model
from headwise_server.repository import State as RepositoryState
from headwise_server.repository import VersionState


def test_model_with_the_other_name_of_another_goes_first(bundle: Path) -> None:
    """A model that is itself called digits.explain is classified with; the explanations of digits have no name then."""
    session = cast(Any, SimpleNamespace(precision="f32"))
    model = Model(read_manifest(bundle), "", "onnxruntime", session, session)
    other = Model(Bundle(name="digits.explain", version="1"), "", "onnxruntime", session, session)
    state = State(cast(Any, None), cast(Any, None), cast(Any, None))
    state.models = {"digits": {1: model}}
    assert served(state, "digits.explain", "") == Served("digits.explain", model, True)
    state.models = {"digits": {1: model}, "digits.explain": {1: other}}
    assert served(state, "digits.explain", "") == Served("digits.explain", other, False)
    assert [entry.name for entry in all_served(state)] == ["digits", "digits.explain", "digits.explain.explain"]


def test_index_says_why_a_version_is_not_served() -> None:
    """Every version under both names with its state and the reason, or those that are served alone."""
    states = [
        VersionState("digits", 1, RepositoryState.READY),
        VersionState("digits", 2, RepositoryState.UNAVAILABLE, "its files are damaged"),
    ]
    entries = [(model.name, model.version, model.state, model.reason) for model in index(states, False).models]
    assert entries == [
        ("digits", "1", "READY", ""),
        ("digits.explain", "1", "READY", ""),
        ("digits", "2", "UNAVAILABLE", "its files are damaged"),
        ("digits.explain", "2", "UNAVAILABLE", "its files are damaged"),
    ]
    assert [model.version for model in index(states, True).models] == ["1", "1"]
