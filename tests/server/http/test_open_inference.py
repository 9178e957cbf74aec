"""The Open Inference Protocol over HTTP: the tensors of gRPC, in JSON."""

import base64
from typing import Any

import numpy as np
import pytest
from headwise import Client
from http_support import PIXELS, PNG, SECONDS, HttpServer, status_of

MODEL = "/v2/models/digits"
PIXEL_INPUT = {"name": "images", "datatype": "UINT8", "shape": [2, 8, 8, 1], "data": PIXELS.ravel().tolist()}
FILE_INPUT = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(PNG).decode()]}


def outputs(value: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of a reply, by name."""
    return {each["name"]: np.reshape(each["data"], each["shape"]) for each in value["outputs"]}


def test_tensors_are_those_of_grpc(http: HttpServer) -> None:
    """Logits and probabilities of pixels, flat or nested."""
    with Client(http.running.address, timeout_seconds=SECONDS) as client:
        expected = client.classify(list(PIXELS))
    for data in (PIXELS.ravel().tolist(), PIXELS.tolist()):
        response = http.post(f"{MODEL}/infer", json={"id": "7", "inputs": [{**PIXEL_INPUT, "data": data}]})
        assert response.status_code == 200, response.text
        value = response.json()
        np.testing.assert_allclose(outputs(value)["logits"], [each.logits_K for each in expected], rtol=1e-5)
        assert outputs(value)["labels"][0, 0] == expected[0].top[0].label
        assert (value["id"], value["model_name"], value["model_version"]) == ("7", "digits", "1")
        assert value["parameters"]["engine"] == "onnxruntime"


def test_files_and_explanations(http: HttpServer) -> None:
    """A file in base64 under the second name of the model: the parts add up to the logits."""
    value = http.post(f"{MODEL}.explain/versions/1/infer", json={"inputs": [FILE_INPUT]}).json()
    split = outputs(value)
    parts = split["heads"].sum(1) + split["feed_forwards"].sum(1) + split["embedding"] + split["biases"]
    np.testing.assert_allclose(parts, split["logits"], atol=1e-4)


def test_classification_extension(http: HttpServer) -> None:
    """The highest values as text, of the outputs asked for alone."""
    asked = [{"name": "probabilities", "parameters": {"classification": 2}}]
    value = http.post(f"{MODEL}/infer", json={"inputs": [FILE_INPUT], "outputs": asked}).json()
    [output] = value["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "BYTES", [1, 2])
    assert all(len(text.split(":")) == 3 for text in output["data"])


def test_large_reply_is_one_json_object(http: HttpServer) -> None:
    """Of thousands of numbers."""
    tensor = {**PIXEL_INPUT, "shape": [200, 8, 8, 1], "data": np.tile(PIXELS, (100, 1, 1, 1)).ravel().tolist()}
    value = http.post(f"{MODEL}.explain/infer", json={"inputs": [tensor]}).json()
    assert outputs(value)["head_fields"].shape[::2] == (200, 10)


def wrong(**changes: Any) -> dict[str, Any]:
    """A request whose input differs."""
    return {"inputs": [{**PIXEL_INPUT, **changes}]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ({}, "inputs"),
        ({"inputs": {}}, "body"),
        ({"inputs": [7]}, "inputs[0]"),
        ({"inputs": [PIXEL_INPUT], "color": 1}, "body"),
        ({"inputs": [PIXEL_INPUT], "id": 7}, "body"),
        (wrong(data=[0] * 127), "inputs[0].data"),
        (wrong(data=[0] * 127 + [256]), "inputs[0].data"),
        (wrong(data=[0] * 127 + [0.5]), "inputs[0].data"),
        (wrong(data=[0] * 127 + [True]), "inputs[0].data"),
        (wrong(data=[[0] * 64, 0]), "inputs[0].data"),
        (wrong(data="text"), "inputs[0].data"),
        (wrong(shape=[2, 8, 8]), "inputs[0].shape"),
        (wrong(shape=["2"]), "inputs[0].shape"),
        (wrong(shape=[2**70, 8, 8, 1]), "body"),
        (wrong(datatype="FP32"), "inputs[0].datatype"),
        (wrong(datatype="BYTES", shape=[1], data=["no base64!"]), "inputs[0].data"),
        (wrong(name="pixels"), "inputs[0].name"),
        (wrong(size=7), "inputs[0]"),
        (wrong(parameters={"content_type": []}), "parameters"),
        (wrong(parameters={"content_type": "np"}), "inputs[0].parameters[content_type]"),
        ({"inputs": [PIXEL_INPUT], "outputs": [{"name": "colour"}]}, "outputs[0].name"),
        ({"inputs": [PIXEL_INPUT], "parameters": {"binary_data_output": True}}, "parameters[binary_data_output]"),
    ],
)
def test_wrong_request_is_refused(http: HttpServer, body: Any, field: str) -> None:
    """With the field that is wrong, and the message where the protocol has it."""
    response = http.post(f"{MODEL}/infer", json=body)
    assert status_of(response) == (400, "INVALID_ARGUMENT"), response.text
    [bad] = [detail for detail in response.json()["details"] if detail["@type"].endswith("BadRequest")]
    assert bad["fieldViolations"][0]["field"] == field
    assert response.json()["error"] == response.json()["message"]


@pytest.mark.parametrize("text", ["NaN", "[" * 100_000, '{"inputs": [NaN]}', '{"a": "\\ud800"}', "9" * 5000, "\xff"])
def test_what_is_no_json_is_refused(http: HttpServer, text: str) -> None:
    """However deep, long or odd."""
    response = http.post(f"{MODEL}/infer", data=text.encode("latin-1"), headers={"content-type": "application/json"})
    assert status_of(response) == (400, "INVALID_ARGUMENT")


def test_binary_tensors_are_refused(http: HttpServer) -> None:
    """The extension is not there, and the error says so."""
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": "10"}
    response = http.post(f"{MODEL}/infer", data=b"x" * 20, headers=headers)
    assert status_of(response) == (400, "INVALID_ARGUMENT")


def test_server_and_model_are_described(http: HttpServer) -> None:
    """Name and version of the server, and the tensors of a model."""
    assert http.get("/v2").json()["name"] == "headwise"
    for path in (MODEL, f"{MODEL}/versions/1"):
        value = http.get(path).json()
        assert value["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}]
        assert {each["name"] for each in value["outputs"]} == {"logits", "probabilities", "labels"}
        assert http.get(f"{path}/ready").json() == {"name": "digits", "ready": True}
    assert status_of(http.get("/v2/models/other/ready")) == (404, "MODEL_NOT_FOUND")
