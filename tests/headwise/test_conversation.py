"""What is asked of a server, and in what order, without one."""

from typing import Any

import grpc
import numpy as np
import pytest
from headwise import InvalidRequest, NotFound, TooLarge, Unavailable
from headwise.conversation import REMEMBERED_MODELS, Call, Conversation
from headwise.messages import Question
from headwise.v1 import service_pb2 as pb
from headwise.v1.bundle_pb2 import Bundle, ImageInput

WRONG = grpc.StatusCode.INVALID_ARGUMENT


class Server:
    """Answers calls, and keeps them."""

    def __init__(self, size: int = 8, largest: int = 1000) -> None:
        self.size, self.largest = size, largest
        self.sha256, self.calls = "a", list[Call]()

    def answer(self, call: Call) -> Any:
        """As the real one would."""
        self.calls.append(call)
        model = pb.ServedModel(name="digits", version="1", sha256=self.sha256)
        if call.method == "GetModel":
            expected = ImageInput(height=self.size, width=self.size, channels=1)
            manifest = Bundle(input=expected, labels=["0"])
            manifest.head_cards.add(encoder=0, head=0, pruned=True)
            manifest.head_cards.add(encoder=0, head=1, row=0)
            manifest.head_cards.add(encoder=1, head=0, row=1)
            return pb.GetModelResponse(model=model, manifest=manifest)
        images = call.request.images
        if len(images) > self.largest:
            raise TooLarge("too many images", WRONG)
        tensors = [image.tensor for image in images if image.WhichOneof("content") == "tensor"]
        if any((tensor.height, tensor.width) != (self.size, self.size) for tensor in tensors):
            raise InvalidRequest("another size", WRONG)
        if call.method == "Classify":
            return pb.ClassifyResponse(model=model, classifications=[pb.Classification() for _ in images])
        explained = pb.Explanation(logits=bytes(4), probabilities=bytes(4), head_fields=bytes(8))
        return pb.ExplainResponse(model=model, explanations=[explained for _ in images])

    def drive(self, steps: Any) -> Any:
        """The result of a conversation with it."""
        try:
            call = next(steps)
            while True:
                try:
                    reply = self.answer(call)
                except (InvalidRequest, NotFound) as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(reply)
        except StopIteration as stop:
            return stop.value

    def methods(self) -> list[str]:
        """What was called."""
        return [call.method for call in self.calls]


def array(size: int = 8) -> np.ndarray:
    """A grey image."""
    return np.zeros((size, size), np.uint8)


@pytest.mark.parametrize("largest", [1, 2, 3, 5, 8])
def test_images_go_in_as_many_calls_as_it_takes(largest: int) -> None:
    """Every one is answered once, in order; files are read once."""
    server = Server(largest=largest)
    results = server.drive(Conversation().classify([bytes([number]) for number in range(8)], "", "", 0))
    assert len(results) == 8
    taken = [call.request.images for call in server.calls if len(call.request.images) <= largest]
    assert [image.encoded[0] for images in taken for image in images] == list(range(8))


def test_one_image_that_is_too_large_is_an_error() -> None:
    """Nothing is left to halve."""
    server = Server(largest=0)
    with pytest.raises(TooLarge, match="too many images"):
        server.drive(Conversation().classify([b"x"] * 2, "", "", 0))


def test_size_is_asked_for_once_and_only_for_arrays() -> None:
    """Those at the model's size travel as they are."""
    server, conversation = Server(), Conversation()
    server.drive(conversation.classify([b"file"], "", "", 0))
    assert server.methods() == ["Classify"]
    for _ in range(2):
        server.drive(conversation.classify([array(8), array(9)], "", "", 0))
    assert server.methods()[1:] == ["GetModel", "Classify", "Classify"]
    kinds = [image.WhichOneof("content") for image in server.calls[-1].request.images]
    assert kinds == ["tensor", "encoded"]


def test_model_of_another_size_in_its_place_is_noticed() -> None:
    """The refusal of a size that was right before is no error of the caller."""
    server, conversation = Server(), Conversation()
    server.drive(conversation.classify([array()], "", "", 0))
    server.size = 16
    assert len(server.drive(conversation.classify([array()], "", "", 0))) == 1
    assert server.methods()[2:] == ["Classify", "GetModel", "Classify"]
    assert server.calls[-1].request.images[0].WhichOneof("content") == "encoded"


def test_refusal_for_another_reason_is_the_callers() -> None:
    """The size is as it was: asked for again, and no third time."""

    class Refusing(Server):
        def answer(self, call: Call) -> Any:
            reply = super().answer(call)
            if call.method == "Classify":
                raise InvalidRequest("no", WRONG)
            return reply

    server = Refusing()
    with pytest.raises(InvalidRequest, match="no"):
        server.drive(Conversation().classify([array()], "", "", 0))
    assert server.methods() == ["GetModel", "Classify", "GetModel"]


def test_labels_are_checked_before_a_file_is_read() -> None:
    """The mistake that is cheaper to find is found first."""
    with pytest.raises(TypeError, match="expected a list of labels"):
        Server().drive(Conversation().explain(["/nonexistent.png"], "", "", Question("38")))


def test_heads_that_are_to_be_silent_are_named_by_encoder_and_number() -> None:
    """Their rows are those of the model that then answers; one that it does not have is refused with those it has."""
    server = Server()
    server.drive(Conversation().explain([b"x"], "", "", Question(silenced_heads=[(1, 0), (0, 1)])))
    assert server.methods() == ["GetModel", "Explain", "GetModel"]
    asked = server.calls[1].request
    assert (asked.model, asked.version, list(asked.silenced_heads)) == ("digits", "1", [1, 0])
    with pytest.raises(ValueError, match=r"expected a head that the model has kept \(0\.1, 1\.0\), found 0\.0"):
        server.drive(Conversation().explain([b"x"], "", "", Question(silenced_heads=[(0, 0)])))


def test_names_are_asked_for_once_for_each_model() -> None:
    """By the sha256 that every reply gives."""
    server, conversation = Server(), Conversation()
    for sha256 in ("a", "a", "b", "a"):
        server.sha256 = sha256
        server.drive(conversation.explain([b"x"], "", "", Question()))
    assert server.methods() == ["Explain", "GetModel", "Explain", "Explain", "GetModel", "Explain"]


def test_version_retired_between_explanation_and_names_is_explained_by_its_successor() -> None:
    """The caller sees nothing of it."""

    class Retiring(Server):
        def answer(self, call: Call) -> Any:
            reply = super().answer(call)
            if self.methods() == ["Explain", "GetModel"]:
                self.sha256 = "b"
                raise NotFound("retired", grpc.StatusCode.NOT_FOUND)
            return reply

    server = Retiring()
    assert len(server.drive(Conversation().explain([b"x"], "", "", Question()))) == 1
    assert server.methods() == ["Explain", "GetModel", "Explain", "GetModel"]


def test_model_replaced_between_explanation_and_names_is_an_error() -> None:
    """Heads are never named by the manifest of another model."""
    described = pb.GetModelResponse(model=pb.ServedModel(name="digits", version="1", sha256="new"))
    with pytest.raises(Unavailable, match="model digits version 1 was replaced during the call"):
        Conversation().remember(pb.ServedModel(name="digits", version="1", sha256="old"), described)


def test_names_of_few_models_are_remembered() -> None:
    """The latest, so that a client that lives long does not grow."""
    conversation = Conversation()
    for number in range(100):
        served = pb.ServedModel(sha256=str(number))
        conversation.remember(served, pb.GetModelResponse(model=served))
    assert list(conversation._names) == [str(number) for number in range(100 - REMEMBERED_MODELS, 100)]
