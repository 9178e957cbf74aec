"""Results of a small model, as a server might have given them."""

from dataclasses import replace

import numpy as np
from headwise import Classification, Explanation, HeadCard, LabelScore, ServedModel, Timings, TokenGrid

MODEL = ServedModel("flowers", "2", "ab" * 32, "onnxruntime", "f32")
TIMINGS = Timings(0.0, 0.001, 0.002)
LABELS = ("<b>rose</b>", "tiger lily", "a$_$b", "daisy", "iris")
SCORES = tuple(LabelScore(index, label, 3.0 - index, 0.5 / (index + 1)) for index, label in enumerate(LABELS))


def classification() -> Classification:
    """Of five labels."""
    logits_K = np.array([score.logit for score in SCORES], np.float32)
    return Classification(logits_K, np.full(5, 0.2, np.float32), SCORES, MODEL, TIMINGS)


def explanation() -> Explanation:
    """Of two targets, by two encoders of two heads, of which one was removed."""
    cards = tuple(
        HeadCard(encoder, head, (encoder, head) == (1, 0), ("iris",) * 6, 0.5, 0.3, 0.01, 100)
        for encoder in (0, 1)
        for head in (0, 1)
    )
    heads_RJ = np.array([[1.0, 0.0], [-2.0, 0.5], [0.0, 0.0], [0.25, 1.0]], np.float32)
    others = {"embedding": [0.5, 0.0], "encoders.0.feed_forward": [3.0, 0.0], "encoders.1.feed_forward": [0.0, 0.0]}
    other_parts = {name: np.array(values, np.float32) for name, values in {**others, "biases": [0.25, 0.5]}.items()}
    fields_RK = np.zeros((4, 5), np.float32)
    fields_RK[2] = np.nan
    common = (1e-7, 1e-4, MODEL, TIMINGS)
    logits_K = classification().logits_K
    means = np.array([0.5, -1.0, 0.0, 0.25], np.float32), {name: 0.25 * (name == "biases") for name in other_parts}
    return Explanation(logits_K, logits_K, SCORES[:2], heads_RJ, fields_RK, cards, other_parts, *common, *means)


def mapped() -> Explanation:
    """The same with maps over 2 x 3 tokens, falls, and a silent head."""
    plain = explanation()
    maps = {name: np.repeat(values_J / 6, 6).reshape(2, 2, 3) for name, values_J in plain.other_parts.items()}
    del maps["biases"]
    return replace(
        plain,
        token_grid=TokenGrid(2, 3, 4, 7, 1.5),
        head_maps_RJYX=np.repeat(plain.heads_RJ / 6, 6).reshape(4, 2, 2, 3),
        other_maps=maps,
        head_effects_RJ=np.array([[0.5, 0.0], [-1.0, 0.0], [np.nan, np.nan], [0.0, 2.0]], np.float32),
        effect_correlations_J=np.array([1.0, 0.5], np.float32),
        silenced_logits_K=np.array([1.0, 3.0, 0.0, 0.0, 0.0], np.float32),
        picture="data:image/png;base64,AAAA",
    )
