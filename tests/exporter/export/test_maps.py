"""Maps over tokens: additive, and they follow what each token was."""

import hypothesis.strategies as st
import pytest
import support
import torch
from headwise_exporter.export.maps import TokenMaps, count_map_macs, target_positions
from headwise_exporter.model.cct import CCT
from headwise_exporter.model.config import cct_7_3x1, count_macs
from hypothesis import given, settings
from torch import Tensor

SMALL, SHAPES = support.SMALL, support.PRUNED_SHAPES
PARTS = {"heads": "head_maps", "feed_forwards": "feed_forward_maps", "embedding": "embedding_maps"}


def maps_of(model: CCT) -> TokenMaps:
    """The maps of a model, with random probes, in its float type."""
    return TokenMaps(support.random_split(model))


@torch.no_grad()
def mapped(model: CCT, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """The outputs of the model's maps."""
    outputs: dict[str, Tensor] = maps_of(model)(images, targets)
    return outputs


def residual(outputs: dict[str, Tensor]) -> float:
    """Largest |sum of a map - contribution|, over the largest contribution."""
    worst, largest = 0.0, 0.0
    for part, maps in PARTS.items():
        targets = outputs["target_indices"]
        if outputs[part].ndim == 3:
            targets = targets.unsqueeze(1).expand(-1, outputs[part].shape[1], -1)
        contributions = outputs[part].gather(-1, targets)
        worst = max(worst, float((outputs[maps].sum(-1) - contributions).abs().max()))
        largest = max(largest, float(outputs[part].abs().max()))
    return worst / largest


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 50), st.integers(0, 50), st.sampled_from([*SHAPES]), st.integers(1, 10))
def test_maps_add_up_to_the_contributions(model_seed: int, image_seed: int, shape: str, targets: int) -> None:
    """On random weights, images and labels each map sums to the part's contribution, to rounding of float64."""
    model, images = support.random_model(SHAPES[shape], model_seed).double(), support.random_pixels(SHAPES[shape])
    generator = torch.Generator().manual_seed(image_seed)
    chosen = torch.randint(-10, 10, (len(images), targets), generator=generator)
    assert residual(mapped(model, images, chosen)) < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
def test_maps_add_up_in_the_type_of_the_model(shape: str) -> None:
    """In float32 they do to 1e-6 of the largest contribution."""
    config = SHAPES[shape]
    outputs = mapped(support.random_model(config), support.random_pixels(config), torch.tensor([[-1, -2, 3]] * 5))
    assert residual(outputs) < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_split_and_logits_are_those_of_explain(shape: str) -> None:
    """What the split gives is among the outputs, to rounding: attention is computed another way."""
    model, images = support.random_model(SHAPES[shape]).double(), support.random_pixels(SHAPES[shape])
    maps = maps_of(model)
    with torch.no_grad():
        outputs, expected = maps(images, torch.full((5, 1), -1)), maps.split(images)
    assert [*expected] == [*outputs][: len(expected)]
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value)


def test_outputs_have_their_shapes() -> None:
    """Every output has its documented shape, also where encoders differ and some have no heads or hidden nodes."""
    outputs = mapped(
        support.random_model(support.emptied(SMALL)), support.random_pixels(SMALL, 3), torch.tensor([[0, -1]] * 3)
    )
    shapes = {name: tuple(outputs[name].shape) for name in ("target_indices", *PARTS.values())}
    assert shapes == {
        "target_indices": (3, 2),
        "head_maps": (3, 2, 2, 16),
        "feed_forward_maps": (3, 2, 2, 16),
        "embedding_maps": (3, 2, 16),
    }
    assert outputs["feed_forward_maps"][:, 0].any()
    assert not outputs["feed_forward_maps"][:, 1].any()


def test_a_heads_map_is_what_it_would_add_without_the_other_tokens_values() -> None:
    """By its definition: with the values of all tokens but one at zero, the contribution is that token's on the map."""
    model, images = support.random_model().double(), support.random_pixels(SMALL)
    maps = maps_of(model)
    with torch.no_grad():
        outputs = maps(images, torch.tensor([[7]] * 5))
        _, activations = model(maps.split.normalise(images), with_attention=True)
        weights = maps.split.token_weights(activations)
        for token in (0, 5, 15):
            value_BHTV = torch.zeros_like(activations["encoders.1.value"])
            value_BHTV[:, :, token] = activations["encoders.1.value"][:, :, token]
            heads_BTV = (activations["encoders.1.attention"] @ value_BHTV).transpose(1, 2).flatten(2)
            alone = maps.split.parts(outputs["logits"], {**activations, "encoders.1.heads": heads_BTV}, weights)
            torch.testing.assert_close(outputs["head_maps"][:, 4:, 0, token], alone["heads"][:, 4:, 7])


@pytest.mark.parametrize(
    ("part", "kind"), [("feed_forward_maps", "feed_forward_hidden"), ("embedding_maps", "embedding")]
)
def test_other_maps_are_what_each_token_added(part: str, kind: str) -> None:
    """With the part's values of all tokens but one at zero, its contribution is that token's on the map."""
    model, images = support.random_model().double(), support.random_pixels(SMALL)
    maps = maps_of(model)
    name = kind if kind == "embedding" else f"encoders.1.{kind}"
    with torch.no_grad():
        outputs = maps(images, torch.tensor([[7]] * 5))
        _, activations = model(maps.split.normalise(images), with_attention=True)
        values = torch.zeros_like(activations[name])
        values[:, 3] = activations[name][:, 3]
        weights = maps.split.token_weights(activations)
        alone = maps.split.parts(outputs["logits"], {**activations, name: values}, weights)
    expected = alone["embedding"] if kind == "embedding" else alone["feed_forwards"][:, 1]
    maps_BJT = outputs[part] if kind == "embedding" else outputs[part][:, 1]
    torch.testing.assert_close(maps_BJT[:, 0, 3], expected[:, 7])


def test_each_image_has_targets_of_its_own() -> None:
    """Maps of a batch with other targets for each image are those of each image alone."""
    model, images = support.random_model().double(), support.random_pixels(SMALL)
    targets = torch.tensor([[0, -1], [9, 9], [-2, 4], [-10, 1], [3, -3]])
    together = mapped(model, images, targets)
    for index in range(len(images)):
        alone = mapped(model, images[index : index + 1], targets[index : index + 1])
        for name, value in alone.items():
            torch.testing.assert_close(together[name][index : index + 1], value)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_ranks_become_positions_and_the_first_of_equals_comes_first(values: list[int]) -> None:
    """-1 is the largest logit, -2 the next, equal ones in the order of the labels; a position stays what it is."""
    ranks = torch.arange(len(values)).unsqueeze(0)
    order = sorted(range(len(values)), key=lambda label: (-values[label], label))
    logits_BK = torch.tensor([values], dtype=torch.float32)
    assert target_positions(logits_BK, -1 - ranks).tolist() == [order]
    assert target_positions(logits_BK, ranks).tolist() == ranks.tolist()


def test_count_of_the_additional_arithmetic_of_cct_7_3x1() -> None:
    """One target adds under 0.3 % to a pass, three about half a per cent."""
    config = cct_7_3x1()
    shares = [count_map_macs(config, targets) / count_macs(config) for targets in (1, 3)]
    assert shares == pytest.approx([0.00277, 0.00521], abs=1e-5)
