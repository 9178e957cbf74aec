"""Models of any shape, and what an engine might give for them."""

from typing import Any, cast

import hypothesis.strategies as st
import numpy as np
from headwise.graphs import DTYPES, EXPLAIN_GRAPH, MAPS_GRAPH, OUTPUTS, array_shapes
from headwise.v1 import bundle_pb2
from headwise_server.batching import Answer
from headwise_server.models import Model

TOKENS = (2, 3)  # rows and columns


class Session:
    """What a reply names of a session."""

    precision = "f32"


def make_model(labels: list[str], kept: list[list[bool]]) -> Model:
    """A model with these labels, and heads that are kept or not, by encoder."""
    manifest = bundle_pb2.Bundle(name="any", version="12", labels=labels, completeness_tolerance=np.inf)
    manifest.architecture.tokens = TOKENS[0] * TOKENS[1]
    manifest.architecture.token_grid.rows, manifest.architecture.token_grid.columns = TOKENS
    for encoder, heads in enumerate(kept):
        manifest.architecture.pruned_encoders.add(heads=sum(heads))
        for head, is_kept in enumerate(heads):
            card = manifest.head_cards.add(encoder=encoder, head=head, pruned=not is_kept)
            if is_kept:
                card.row = sum(not card.pruned for card in manifest.head_cards) - 1
    session = cast(Any, Session())
    return Model(manifest, "0" * 64, "onnxruntime", session, session)


def make_answer(model: Model, images: int, seed: int, targets: list[int] | None = None) -> Answer:
    """Random outputs of explain.onnx, or of maps.onnx for these targets."""
    random = np.random.default_rng(seed)
    shapes = array_shapes(model.manifest, images, len(targets or ()))
    names = OUTPUTS[EXPLAIN_GRAPH if targets is None else MAPS_GRAPH]
    outputs = {name: random.normal(size=shapes[name]).astype(DTYPES.get(name, np.float32)) for name in names}
    if targets is not None:
        outputs["target_indices"] = np.tile(np.array(targets, np.int64), (images, 1))
    return Answer(outputs, 0.25, 0.5)


def make_silent_answer(model: Model, images: int, inferences: int, seed: int) -> Answer:
    """Random outputs of silenced.onnx."""
    labels = len(model.manifest.labels)
    logits = np.random.default_rng(seed).normal(size=(images * inferences, labels)).astype(np.float32)
    return Answer({"silenced_logits": logits}, 0.5, 0.25)


MODELS = st.builds(
    make_model,
    st.lists(st.text(max_size=24), min_size=1, max_size=160, unique=True),
    st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=4),
)
TOP = st.integers(0, 200) | st.just(2**32 - 1)
