"""What is asked of a server, and in what order: shared by the client that blocks and the one that awaits.

Each method is a generator. It yields calls, is sent the replies or has the errors thrown in, and returns the result.
Who drives it does the waiting.

- More images than a call may have go in several: a call that was too large is halved until it passes.
- Arrays travel as they are where they have the model's size, which is asked for once; a model of another size that has
  taken its place since is noticed by the refusal.
- What the rows of an explanation are called is in the manifest, which is asked for once for each sha256.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import grpc
import numpy as np

from headwise import messages
from headwise.errors import InvalidRequest, NotFound, TooLarge, Unavailable, make_error
from headwise.inputs import ImageLike, Images, Size, one_by_one, to_image
from headwise.messages import Names, Question
from headwise.pictures import data_uri
from headwise.results import Classification, Explanation
from headwise.v1 import service_pb2 as pb

REMEMBERED_MODELS = 16  # whose names are kept; a client that explains with more of them asks again


@dataclass(frozen=True)
class Call:
    """One call of the service."""

    method: str
    request: Any


Result = TypeVar("Result")
About = TypeVar("About", Classification, Explanation)  # an image
Steps = Generator[Call, Any, Result]
Ask = Callable[[list[pb.Image]], Steps[list[About]]]


def _in_parts(images: list[pb.Image], ask: Ask[About]) -> Steps[list[About]]:
    """What is asked about all images, in as many calls as it takes.

    Raises:
        TooLarge: one image is.
    """
    try:
        return (yield from ask(images))
    except TooLarge:
        if len(images) < 2:
            raise
    half = len(images) // 2
    first = yield from _in_parts(images[:half], ask)
    return first + (yield from _in_parts(images[half:], ask))


def _with_pictures(results: list[About], images: Sequence[pb.Image]) -> list[About]:
    """The results, with the images that they are of."""
    return [replace(result, picture=data_uri(image)) for result, image in zip(results, images, strict=True)]


def _get_model(model: str, version: str) -> Call:
    return Call("GetModel", pb.GetModelRequest(model=model, version=version))


def _has_tensors(images: Sequence[pb.Image]) -> bool:
    return any(image.WhichOneof("content") == "tensor" for image in images)


class Conversation:
    """What a client has learnt from its server."""

    def __init__(self) -> None:
        self._names: dict[str, Names] = {}  # by the sha256 of manifests
        self._sizes: dict[tuple[str, str], Size] = {}  # by model and version, as callers name them

    def size(self, model: str, version: str) -> Steps[Size]:
        """Height, width and channels that a model takes."""
        if known := self._sizes.get((model, version)):
            return known
        reply = yield _get_model(model, version)
        expected = reply.manifest.input
        size = self._sizes[model, version] = (expected.height, expected.width, expected.channels)
        return size

    def image(self, image: ImageLike, model: str, version: str) -> Steps[pb.Image]:
        """One image as the wire has it."""
        size = (yield from self.size(model, version)) if isinstance(image, np.ndarray) else None
        return to_image(image, size)

    def _about(self, images: Images, model: str, version: str, ask: Ask[About]) -> Steps[list[About]]:
        """What is asked about images in any form.

        Raises:
            TypeError, ValueError, OSError: as `inputs.to_image`, before anything is asked.
        """
        given = list(one_by_one(images))

        def encoded() -> Steps[list[pb.Image]]:
            made = []
            for image in given:
                made.append((yield from self.image(image, model, version)))
            return made

        sent = yield from encoded()
        try:
            return _with_pictures((yield from _in_parts(sent, ask)), sent)
        except InvalidRequest:
            known = self._sizes.pop((model, version), None)
            if not _has_tensors(sent) or known == (yield from self.size(model, version)):
                raise
        sent = yield from encoded()
        return _with_pictures((yield from _in_parts(sent, ask)), sent)

    def classify(self, images: Images, model: str, version: str, top_k: int) -> Steps[list[Classification]]:
        """The labels of each image."""

        def ask(part: list[pb.Image]) -> Steps[list[Classification]]:
            reply = yield Call("Classify", messages.classify_request(part, model, version, top_k))
            return messages.classifications(reply)

        return (yield from self._about(images, model, version, ask))

    def explain(self, images: Images, model: str, version: str, asked: Question) -> Steps[list[Explanation]]:
        """What each part contributed to the target labels of each image.

        Raises:
            ValueError: the model has no head that is to be silent.
        """
        rows: list[int] = []
        if asked.silenced_heads:
            described = yield _get_model(model, version)
            rows = messages.names_of(described).rows(asked.silenced_heads)
            model, version = described.model.name, described.model.version  # another one has other rows

        def ask(part: list[pb.Image]) -> Steps[list[Explanation]]:
            call = Call("Explain", messages.explain_request(part, model, version, asked, rows))
            reply = yield call
            if (names := self._names.get(reply.model.sha256)) is None:
                try:
                    described = yield _get_model(reply.model.name, reply.model.version)
                except NotFound:
                    # The version that answered has been retired since. What is served now explains as well.
                    reply = yield call
                    described = yield _get_model(reply.model.name, reply.model.version)
                names = self.remember(reply.model, described)
            return messages.explanations(reply, names)

        return (yield from self._about(images, model, version, ask))

    def remember(self, explained: pb.ServedModel, response: pb.GetModelResponse) -> Names:
        """The names of the model that explained.

        Raises:
            Unavailable: the server has another one by now.
        """
        if response.model.sha256 != explained.sha256:
            raise make_error(
                grpc.StatusCode.UNAVAILABLE,
                f"model {explained.name} version {explained.version} was replaced during the call. Send it again.",
            )
        for oldest in list(self._names)[: 1 - REMEMBERED_MODELS]:
            self._names.pop(oldest, None)
        names = self._names[explained.sha256] = messages.names_of(response)
        return names

    def ready(self, target: str) -> Steps[None]:
        """Whether the server serves at least one model.

        Raises:
            Unavailable: it does not yet, or does not answer.
        """
        reply = yield Call("ListModels", pb.ListModelsRequest())
        if not reply.models:
            raise Unavailable(f"{target} still loads its models.", grpc.StatusCode.UNAVAILABLE)
