"""What `tritonclient` makes of a server, in a process of its own: its stubs and ours have the same names.

    python triton_client.py sync|aio|descriptors ADDRESS FOLDER

asks ADDRESS with the images of FOLDER/images.npy and FOLDER/digit.png, and writes FOLDER/answers.json with plain
values, and FOLDER/tensors.npz with the arrays; `descriptors` prints the protocol as tritonclient has it.
"""

import asyncio
import base64
import json
import queue
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import model_config_pb2, service_pb2

EXPLAIN_OUTPUTS = ("logits", "heads", "feed_forwards", "embedding", "biases", "head_fields")
TIMEOUT_SECONDS = 600


def images_input(images: np.ndarray) -> triton.InferInput:
    """Images as UINT8."""
    tensor = triton.InferInput("images", images.shape, "UINT8")
    tensor.set_data_from_numpy(images)
    return tensor


def files_input(files: list[bytes], *axes: int) -> triton.InferInput:
    """Files as BYTES."""
    elements = np.array([*files, None], dtype=object)[:-1].reshape(len(files), *axes)
    tensor = triton.InferInput("images", elements.shape, "BYTES")
    tensor.set_data_from_numpy(elements)
    return tensor


def calls(images: np.ndarray, file: bytes) -> dict[str, dict[str, Any]]:
    """Arguments of the calls of `infer`, by name."""
    output = triton.InferRequestedOutput
    return {
        "classify": {"model_name": "digits", "inputs": [images_input(images)]},
        "files": {"model_name": "digits", "inputs": [files_input([file, file])], "model_version": "1"},
        "files in a column": {"model_name": "digits", "inputs": [files_input([file, file], 1)]},
        "top": {
            "model_name": "digits",
            "inputs": [images_input(images)],
            "outputs": [output("probabilities", class_count=3), output("logits", class_count=99)],
            "request_id": "7",
            "timeout": 1_000_000 * TIMEOUT_SECONDS,
        },
        "explain": {
            "model_name": "digits.explain",
            "inputs": [images_input(images)],
            "outputs": [output(name) for name in EXPLAIN_OUTPUTS],
        },
    }


def questions(client: Any) -> dict[str, Callable[[], Any]]:
    """What is asked besides `infer`, by name."""
    return {
        "live": client.is_server_live,
        "ready": client.is_server_ready,
        "model ready": partial(client.is_model_ready, "digits"),
        "explain ready": partial(client.is_model_ready, "digits.explain", "1"),
        "absent ready": partial(client.is_model_ready, "flowers"),
        "absent version ready": partial(client.is_model_ready, "digits", "2"),
        "server": partial(client.get_server_metadata, as_json=True),
        "metadata": partial(client.get_model_metadata, "digits", as_json=True),
        "explain metadata": partial(client.get_model_metadata, "digits.explain", as_json=True),
        "config": partial(client.get_model_config, "digits", as_json=True),
        "index": partial(client.get_model_repository_index, as_json=True),
        "statistics": partial(client.get_inference_statistics, "digits", as_json=True),
        "load": partial(client.load_model, "digits"),
        "unload": partial(client.unload_model, "digits"),
        "absent": partial(client.get_model_metadata, "flowers"),
    }


def streamed(images: np.ndarray) -> list[dict[str, Any]]:
    """Requests of a stream: an image each, the third of a wrong size."""
    inputs = [images_input(images[number : number + 1, : 4 if number == 2 else None]) for number in range(5)]
    return [
        {"model_name": "digits", "inputs": [tensor], "request_id": str(number), "enable_empty_final_response": True}
        for number, tensor in enumerate(inputs)
    ]


class Answers:
    """What the server said, to be written."""

    def __init__(self) -> None:
        self.plain: dict[str, Any] = {}
        self.tensors: dict[str, np.ndarray] = {}

    def add(self, name: str, result: Any) -> None:
        """Keep a result of `infer`."""
        response = result.get_response()
        self.plain[name] = {
            "model": response.model_name,
            "version": response.model_version,
            "id": response.id,
            "parameters": {key: value.string_param for key, value in response.parameters.items()},
        }
        for output in response.outputs:
            values = result.as_numpy(output.name)
            self.tensors[f"{name}/{output.name}"] = values.astype("S") if values.dtype == object else values

    def add_streamed(self, number: int, result: Any, error: Any) -> None:
        """Keep an answer of a stream."""
        if error is not None:
            self.plain[f"stream {number}"] = {"error": str(error)}
            return
        self.add(f"stream {number}", result)
        final = result.get_response().parameters["triton_final_response"]
        self.plain[f"stream {number}"]["final"] = final.bool_param


def ask_sync(address: str, images: np.ndarray, file: bytes) -> Answers:
    """All answers, from the blocking client."""
    answers, replies = Answers(), queue.Queue[tuple[Any, Any]]()
    with triton.InferenceServerClient(address) as client:
        for name, arguments in calls(images, file).items():
            answers.add(name, client.infer(**arguments, client_timeout=TIMEOUT_SECONDS))
        for name, question in questions(client).items():
            try:
                answers.plain[name] = question()
            except triton.InferenceServerException as error:
                answers.plain[name] = {"status": error.status(), "error": error.message()}
        client.start_stream(lambda result, error: replies.put((result, error)))
        for arguments in streamed(images):
            client.async_stream_infer(**arguments)
        for number in range(5):
            answers.add_streamed(number, *replies.get(timeout=TIMEOUT_SECONDS))
        client.stop_stream()
    return answers


async def ask_aio(address: str, images: np.ndarray, file: bytes) -> Answers:
    """All answers, from the awaiting client."""
    answers = Answers()
    async with triton_aio.InferenceServerClient(address) as client:
        for name, arguments in calls(images, file).items():
            answers.add(name, await client.infer(**arguments, client_timeout=TIMEOUT_SECONDS))
        for name, question in questions(client).items():
            try:
                answers.plain[name] = await question()
            except triton.InferenceServerException as error:
                answers.plain[name] = {"status": error.status(), "error": error.message()}

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for arguments in streamed(images):
                yield arguments

        number = 0
        async for result, error in client.stream_infer(requests()):
            answers.add_streamed(number, result, error)
            number += 1
    return answers


def main(kind: str, address: str, folder: Path) -> None:
    """Ask and write."""
    if kind == "descriptors":
        files = [module.DESCRIPTOR.serialized_pb for module in (service_pb2, model_config_pb2)]
        print(json.dumps([base64.b64encode(file).decode() for file in files]))
        return
    images, file = np.load(folder / "images.npy"), (folder / "digit.png").read_bytes()
    answers = ask_sync(address, images, file) if kind == "sync" else asyncio.run(ask_aio(address, images, file))
    (folder / "answers.json").write_text(json.dumps(answers.plain))
    np.savez(folder / "tensors.npz", **{name.replace("/", "|"): value for name, value in answers.tensors.items()})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
