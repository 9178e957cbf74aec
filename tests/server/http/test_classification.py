"""Classify and Explain over HTTP: the numbers of gRPC, whatever form a picture comes in."""

import base64
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import support
from headwise import Client
from headwise.bundle import read_manifest
from http_support import PIXELS, PNG, SECONDS, HttpServer, running_http_server, status_of

MODEL = "/v1/models/digits"
FORM = [("image", ("a.png", PNG, "image/png")), ("image", ("b.png", PNG, "image/png"))]
ENCODED = {"encoded": base64.b64encode(PNG).decode()}
TENSOR = {"tensor": {"height": 8, "width": 8, "channels": 1, "data": base64.b64encode(PIXELS[0].tobytes()).decode()}}


def send(http: HttpServer, form: str, method: str, query: str = "") -> requests.Response:
    """The first picture, in one of the forms."""
    path = f"{MODEL}:{method}{query}"
    if form == "form":
        return http.post(path, files=FORM[:1])
    if form == "body":
        return http.post(path, data=PNG, headers={"content-type": "image/png"})
    return http.post(path, json={"images": [TENSOR if form == "tensor" else ENCODED]})


@pytest.fixture
def client(http: HttpServer) -> Any:
    """A gRPC client of the same server."""
    with Client(http.running.address, timeout_seconds=SECONDS) as connected:
        yield connected


@pytest.mark.parametrize("form", ["form", "body", "json", "tensor"])
def test_classify_gives_what_grpc_gives(http: HttpServer, client: Client, form: str) -> None:
    """Labels, logits and probabilities, and which model they are of."""
    response = send(http, form, "classify", "?top_k=4")
    assert response.status_code == 200, response.text
    [expected], value = client.classify([PNG], top_k=4), response.json()
    [given] = value["classifications"]
    assert [score["label"] for score in given["top"]] == [score.label for score in expected.top]
    np.testing.assert_allclose([score["logit"] for score in given["top"]], [score.logit for score in expected.top])
    np.testing.assert_allclose(
        [score["probability"] for score in given["top"]], [score.probability for score in expected.top], rtol=1e-6
    )
    assert (value["model"]["name"], value["model"]["version"]) == ("digits", "1")
    assert 0 < value["timings"]["inference_seconds"] <= value["timings"]["total_seconds"]


@pytest.mark.parametrize("form", ["form", "body", "json", "tensor"])
def test_explain_gives_what_grpc_gives(http: HttpServer, client: Client, form: str) -> None:
    """The contribution of each head, with its encoder and number, and of the other parts; they add up to the logit."""
    value = send(http, form, "explain", "?labels=3&labels=8").json()
    [expected] = client.explain([PNG], labels=["3", "8"])
    [given] = value["explanations"]
    assert [target["label"] for target in given["targets"]] == ["3", "8"]
    for column, target in enumerate(given["targets"]):
        heads = [(head["encoder"], head["head"]) for head in target["heads"]]
        rows = [row for row, card in enumerate(expected.head_cards) if not card.pruned]
        cards = [expected.head_cards[row] for row in rows]
        assert heads == [(card.encoder, card.head) for card in cards]
        contributions = [head["contribution"] for head in target["heads"]]
        np.testing.assert_allclose(contributions, expected.heads_RJ[rows, column], rtol=1e-6)
        total = sum(contributions) + sum(part["contribution"] for part in target["other_parts"])
        assert total == pytest.approx(target["logit"], abs=value["completeness_tolerance"])
        assert 0 <= target["probability"] <= 1
    assert given["completeness_residual"] <= value["completeness_tolerance"]


def test_several_pictures_of_a_form_are_answered_in_order(http: HttpServer) -> None:
    """One classification for each file, by a version of the model."""
    response = http.post(f"{MODEL}/versions/1:classify", files=[*FORM, FORM[0]])
    assert [len(each["top"]) for each in response.json()["classifications"]] == [5, 5, 5]


def test_large_explanation_is_written_off_the_loop(http: HttpServer) -> None:
    """Thousands of numbers come as one JSON object like any other."""
    value = http.post(f"{MODEL}:explain?top_k=10", json={"images": [TENSOR] * 200}).json()
    assert len(value["explanations"]) == 200
    assert all(len(each["targets"]) == 10 for each in value["explanations"])


@pytest.mark.parametrize(
    ("path", "options", "expected"),
    [
        (":classify", {"data": b"no picture", "headers": {"content-type": "image/png"}}, (400, "INVALID_ARGUMENT")),
        (":classify", {"data": b"{", "headers": {"content-type": "application/json"}}, (400, "INVALID_ARGUMENT")),
        (":classify", {"json": []}, (400, "INVALID_ARGUMENT")),
        (":classify", {"json": {"images": []}}, (400, "INVALID_ARGUMENT")),
        (":classify", {"json": {"images": [{}]}}, (400, "INVALID_ARGUMENT")),
        (":classify", {"json": {"pictures": []}}, (400, "INVALID_ARGUMENT")),
        (":classify", {"json": {"images": [{}] * 20_000}}, (400, "INVALID_ARGUMENT")),
        (":classify", {"json": {"images": [ENCODED], "model": "other"}}, (400, "INVALID_ARGUMENT")),
        (":classify", {"files": [("picture", FORM[0][1])]}, (400, "INVALID_ARGUMENT")),
        (":classify", {"data": b"x", "headers": {"content-type": "multipart/form-data"}}, (400, "INVALID_ARGUMENT")),
        (":classify", {"data": b"x", "headers": {"content-type": "text/plain"}}, (415, "UNSUPPORTED_MEDIA_TYPE")),
        (":classify", {"data": b""}, (415, "UNSUPPORTED_MEDIA_TYPE")),
        (":classify?top_k=-1", {"json": {"images": [ENCODED]}}, (400, "INVALID_ARGUMENT")),
        (":classify?top_k=1&top_k=2", {"json": {"images": [ENCODED]}}, (400, "INVALID_ARGUMENT")),
        (":classify?labels=3", {"json": {"images": [ENCODED]}}, (400, "INVALID_ARGUMENT")),
        (":classify?timeout_seconds=soon", {"json": {"images": [ENCODED]}}, (400, "INVALID_ARGUMENT")),
        (":classify?timeout_seconds=1e-9", {"json": {"images": [ENCODED]}}, (504, "DEADLINE_UNMEETABLE")),
        (":explain?labels=cat", {"json": {"images": [ENCODED]}}, (400, "INVALID_ARGUMENT")),
        ("/versions/7:classify", {"json": {"images": [ENCODED]}}, (404, "MODEL_NOT_FOUND")),
        ("s:classify", {"json": {"images": [ENCODED]}}, (404, "MODEL_NOT_FOUND")),
    ],
)
def test_wrong_request_is_refused(
    http: HttpServer, path: str, options: dict[str, Any], expected: tuple[int, str]
) -> None:
    """With the reason that gRPC gives, and the HTTP code for it; the server goes on."""
    assert status_of(http.post(MODEL + path, **options)) == expected
    assert http.classify().status_code == 200


def test_field_violation_names_the_image(http: HttpServer) -> None:
    """The details are those of gRPC."""
    body = http.post(f"{MODEL}:classify", json={"images": [ENCODED, {"encoded": "AAAA"}]}).json()
    [bad] = [detail for detail in body["details"] if detail["@type"].endswith("BadRequest")]
    assert bad["fieldViolations"][0]["field"] == "images[1].encoded"


def test_models_and_their_manifests_are_listed(http: HttpServer, client: Client) -> None:
    """What ListModels and GetModel say."""
    [listed] = http.get("/v1/models").json()["models"]
    assert listed["name"] == "digits"
    for path in (MODEL, f"{MODEL}/versions/1"):
        value = http.get(path).json()
        assert value["model"] == listed
        assert value["manifest"]["labels"] == [str(digit) for digit in range(10)]
    assert status_of(http.get("/v1/models/other")) == (404, "MODEL_NOT_FOUND")


def test_pictures_for_the_heads_are_an_image(http: HttpServer, bundle: Path) -> None:
    """The bundle's file, of the type that its name says."""
    for path in (MODEL, f"{MODEL}/versions/1"):
        reply = http.get(f"{path}/head-samples")
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "image/png"
        assert reply.content == (bundle / "head_samples.png").read_bytes()


def test_bundle_without_pictures_has_no_such_path(repository: Path, tmp_path: Path) -> None:
    """As where the exporter was told to put none in it; all else is served."""
    copy = Path(shutil.copytree(repository, tmp_path / "models")) / "digits" / "1"
    manifest = read_manifest(copy)
    (copy / manifest.head_samples.path).unlink()
    manifest.ClearField("head_samples")
    support.rehash(copy, manifest)
    with running_http_server(copy.parent.parent) as http:
        http.wait_until_ready()
        assert status_of(http.get(f"{MODEL}/head-samples")) == (404, "PATH_NOT_FOUND")
        assert http.classify().status_code == 200
