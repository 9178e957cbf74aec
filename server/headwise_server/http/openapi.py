"""The OpenAPI 3.1 description of the HTTP port, as /openapi.json has it. A test holds it against the real replies."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

Schema = dict[str, Any]
STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
BASE64: Schema = {"type": "string", "contentEncoding": "base64"}
BINARY: Schema = {"type": "string", "format": "binary"}
MAP: Schema = {"type": "array", "items": {"type": "array", "items": NUMBER}}
SCALAR: Schema = {"type": ["boolean", "number", "string"]}
STATUSES = {
    "400": "A part of the request is not what it must be.",
    "404": "No such model or version, or no such path.",
    "413": "The body is larger than bodies may be.",
    "415": "The body is of a type that the path does not take.",
    "429": "No room for the request now; Retry-After says when to try again.",
    "500": "The engine failed, or an explanation did not pass its own check.",
    "503": "Still loading, or shutting down.",
    "504": "The answer would come too late, or has.",
}
OF_ALL, OF_MODELS = ("429", "500", "503"), ("400", "404")
OF_BODIES = ("400", "404", "413", "415", "504")


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(properties: Mapping[str, Schema], optional: tuple[str, ...] = (), *, closed: bool = False) -> Schema:
    required = [name for name in properties if name not in optional]
    schema: Schema = {"type": "object", "properties": dict(properties), "required": required}
    return schema | {"additionalProperties": False} if closed else schema


def _one(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


SCHEMAS: dict[str, Schema] = {
    "Status": {
        **_object(
            {"code": INTEGER, "message": STRING, "details": _array({"type": "object"}), "error": STRING}, ("error",)
        ),
        "description": "A google.rpc.Status; `error` repeats the message where the Open Inference Protocol wants it.",
    },
    "ServedModel": _object(dict.fromkeys(("name", "version", "sha256", "engine", "precision"), STRING)),
    "Timings": _object(dict.fromkeys(("queue_seconds", "inference_seconds", "total_seconds"), NUMBER)),
    "Score": _object({"index": COUNT, "label": STRING, "logit": NUMBER, "probability": NUMBER}),
    "ClassifyReply": _object(
        {
            "model": _one("ServedModel"),
            "classifications": _array(_object({"top": _array(_one("Score"))})),
            "timings": _one("Timings"),
        }
    ),
    "Target": _object(
        {
            "index": COUNT,
            "label": STRING,
            "logit": NUMBER,
            "probability": NUMBER,
            "heads": _array(
                _object(
                    {"encoder": COUNT, "head": COUNT, **dict.fromkeys(("contribution", "above_mean", "effect"), NUMBER)}
                    | {"map": MAP},
                    ("effect", "map"),
                )
            ),
            "other_parts": _array(
                _object({"name": STRING, "contribution": NUMBER, "above_mean": NUMBER, "map": MAP}, ("map",))
            ),
            "effect_correlation": {"type": ["number", "null"]},
            "silenced_logit": NUMBER,
            "silenced_probability": NUMBER,
        },
        ("effect_correlation", "silenced_logit", "silenced_probability"),
    ),
    "TokenGrid": _object(
        dict.fromkeys(("rows", "columns", "stride_pixels", "receptive_field_pixels"), COUNT)
        | {"first_center_pixels": NUMBER}
    ),
    "ExplainReply": _object(
        {
            "model": _one("ServedModel"),
            "explanations": _array(
                _object(
                    {
                        "completeness_residual": NUMBER,
                        "mean_logit": NUMBER,
                        "targets": _array(_one("Target")),
                        "silenced_top": _array(_one("Score")),
                    },
                    ("silenced_top",),
                )
            ),
            "completeness_tolerance": NUMBER,
            "token_grid": _one("TokenGrid"),
            "timings": _one("Timings"),
        },
        ("token_grid",),
    ),
    "Image": {
        "oneOf": [
            _object({"encoded": BASE64}, closed=True),
            _object(
                {"tensor": _object({"height": COUNT, "width": COUNT, "channels": COUNT, "data": BASE64}, closed=True)},
                closed=True,
            ),
        ]
    },
    "Form": _object({"image": _array(BINARY)}, closed=True),
    "ClassifyRequest": _object({"images": _array(_one("Image")), "top_k": COUNT}, ("top_k",), closed=True),
    "ExplainRequest": _object(
        {
            "images": _array(_one("Image")),
            "top_k": COUNT,
            "labels": _array(STRING),
            "maps": BOOLEAN,
            "causal": BOOLEAN,
            "silenced_heads": _array(COUNT),
        },
        ("top_k", "labels", "maps", "causal", "silenced_heads"),
        closed=True,
    ),
    "Models": _object({"models": _array(_one("ServedModel"))}),
    "Model": _object({"model": _one("ServedModel"), "manifest": {"type": "object"}}),
    "Live": _object({"live": BOOLEAN}),
    "Ready": _object({"ready": BOOLEAN, "name": STRING}, ("name",)),
    "Server": _object({"name": STRING, "version": STRING, "extensions": _array(STRING)}),
    "TensorDescription": _object({"name": STRING, "datatype": STRING, "shape": _array(INTEGER)}),
    "ModelDescription": _object(
        {
            "name": STRING,
            "versions": _array(STRING),
            "platform": STRING,
            "inputs": _array(_one("TensorDescription")),
            "outputs": _array(_one("TensorDescription")),
        }
    ),
    "Parameters": {"type": "object", "additionalProperties": SCALAR},
    "InferRequest": _object(
        {
            "id": STRING,
            "parameters": _one("Parameters"),
            "inputs": _array(
                _object(
                    {
                        "name": STRING,
                        "datatype": {"enum": ["UINT8", "BYTES"]},
                        "shape": _array(INTEGER),
                        "parameters": _one("Parameters"),
                        "data": {"type": "array"},
                    },
                    ("parameters",),
                    closed=True,
                )
            ),
            "outputs": _array(
                _object({"name": STRING, "parameters": _one("Parameters")}, ("parameters",), closed=True)
            ),
        },
        ("id", "parameters", "outputs"),
        closed=True,
    ),
    "InferReply": _object(
        {
            "model_name": STRING,
            "model_version": STRING,
            "id": STRING,
            "parameters": _one("Parameters"),
            "outputs": _array(
                _object({"name": STRING, "datatype": STRING, "shape": _array(INTEGER), "data": {"type": "array"}})
            ),
        },
        ("id",),
    ),
}


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


TOP = _query("top_k", COUNT, "Labels of each image, best first; 0 for the default.")
LABELS = _query("labels", _array(STRING), "Labels to explain, each once; without them the best ones.")
MAPS = _query("maps", BOOLEAN, "Also say which tokens each contribution comes from.")
CAUSAL = _query("causal", BOOLEAN, "Also remove each head in turn and see how far the logits fall.")
SILENCED = _query("silenced_heads", _array(COUNT), "Also say the labels with these heads silent; rows of head cards.")
TIMEOUT = _query("timeout_seconds", {"type": "number", "exclusiveMinimum": 0}, "When the answer is of no more use.")

OF_EXPLAIN = [TOP, LABELS, MAPS, CAUSAL, SILENCED]


def _operation(summary: str, reply: str, statuses: tuple[str, ...], **more: Any) -> Schema:
    responses = {"200": {"description": summary, "content": _json(_one(reply))}}
    for status in sorted({*statuses, *OF_ALL}):
        content = _json({"anyOf": [_one("Status"), _one("Ready")]} if reply == "Ready" else _one("Status"))
        responses[status] = {"description": STATUSES[status], "content": content}
    return {"summary": summary, "responses": responses, **more}


def _upload(summary: str, kind: str, parameters: list[Schema]) -> Schema:
    content = {
        **_json(_one(f"{kind}Request")),
        "multipart/form-data": {"schema": _one("Form")},
        "image/*": {"schema": BINARY},
    }
    body = {"required": True, "content": content}
    return _operation(summary, f"{kind}Reply", OF_BODIES, parameters=[*parameters, TIMEOUT], requestBody=body)


def _paths(example: Mapping[str, str]) -> dict[str, Schema]:
    metrics: Schema = {"200": {"description": "Metrics for Prometheus", "content": {"text/plain": {"schema": STRING}}}}
    paths: dict[str, Schema] = {
        "/metrics": {"get": {"summary": "Metrics for Prometheus", "responses": metrics}},
        "/healthz": {"get": _operation("The process answers", "Live", ())},
        "/readyz": {"get": _operation("Whether to send requests", "Ready", ())},
        "/v2/health/live": {"get": _operation("The process answers", "Live", ())},
        "/v2/health/ready": {"get": _operation("Whether to send requests", "Ready", ())},
        "/openapi.json": {"get": {"summary": "This description", "responses": {"200": {"description": "OpenAPI 3.1"}}}},
        "/v1/models": {"get": _operation("All models served", "Models", ("400",))},
        "/v2": {"get": _operation("The server", "Server", ("400",))},
    }
    pictures = _operation("Pictures for which each head spoke", "Model", OF_MODELS)
    pictures["responses"]["200"]["content"] = {"image/png": {"schema": BINARY}, "image/jpeg": {"schema": BINARY}}
    infer_body = {"required": True, "content": _json(_one("InferRequest"))}
    of_models = {
        "/v1/models/{name}": {"get": _operation("A model and its manifest", "Model", OF_MODELS)},
        "/v1/models/{name}/head-samples": {"get": pictures},
        "/v1/models/{name}:classify": {"post": _upload("Labels of images", "Classify", [TOP])},
        "/v1/models/{name}:explain": {"post": _upload("What each head says to labels", "Explain", OF_EXPLAIN)},
        "/v2/models/{name}": {"get": _operation("The tensors of a model", "ModelDescription", OF_MODELS)},
        "/v2/models/{name}/ready": {"get": _operation("Whether a model is served", "Ready", OF_MODELS)},
        "/v2/models/{name}/infer": {
            "post": _operation("Tensors", "InferReply", OF_BODIES, parameters=[TIMEOUT], requestBody=infer_body)
        },
    }
    for path, item in of_models.items():
        for part in ("{name}", "{name}/versions/{version}"):
            names = ("name", "version")[: 1 + ("version" in part)]
            named: list[Schema] = [
                {"name": name, "in": "path", "required": True, "schema": STRING, "example": example[name]}
                for name in names
            ]
            paths[path.replace("{name}", part)] = item | {"parameters": named}
    return paths


def document(name: str, version_number: str) -> Schema:
    """The whole description, with a model as the example."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "headwise-server",
            "version": version("headwise"),
            "description": "Labels of images, and what each attention head said to them. See docs/serving.md.",
        },
        "paths": _paths({"name": name, "version": version_number}),
        "components": {"schemas": SCHEMAS},
    }
