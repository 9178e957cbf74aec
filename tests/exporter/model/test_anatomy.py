"""A model's description of its layers fits its tensors, whatever its shape."""

import pytest
import support
import torch
from headwise_exporter.model.anatomy import FILTERS, by_token
from headwise_exporter.model.cct import CCT

SMALL = support.small_config()
CONFIGS = {
    "even": SMALL,
    "uneven": support.uneven(SMALL),
    "convolved": support.convolved(SMALL),
    "emptied": support.emptied(SMALL),
}


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> CCT:
    """A random model: with equal encoders, with others, with filters, with encoders that lost what they had."""
    return support.random_model(CONFIGS[request.param])


def activations(model: CCT) -> dict[str, torch.Tensor]:
    """Activations of three random images, by token."""
    with torch.no_grad():
        side = model.config.image_size
        images = torch.randn(3, 1, side, side, generator=torch.Generator().manual_seed(0))
        values: dict[str, torch.Tensor] = model(images)[1]
    return {name: by_token(value) for name, value in values.items()}


def test_every_tap_point_is_an_activation_of_its_size(model: CCT) -> None:
    """In the order of the forward pass; only what the model pools itself has no tokens."""
    values = activations(model)
    taps = model.tap_points()
    assert [name for name in values if name in {tap.name for tap in taps}] == [tap.name for tap in taps]
    for tap in taps:
        places = [side * side for side in model.config.map_sides]
        tokens = places[int(tap.name.removeprefix("filters."))] if tap.kind == FILTERS else model.config.tokens
        assert values[tap.name].shape == ((3, tap.nodes) if tap.pooled else (3, tokens, tap.nodes))
        assert tap.nodes % tap.heads == 0


def test_maskable_layer_reads_and_writes_its_tap_points(model: CCT) -> None:
    """Its weight has a row for each node that it writes and a column for each that it reads."""
    nodes = {tap.name: tap.nodes for tap in model.tap_points()}
    for layer in model.maskable_layers():
        outputs = model.config.labels if layer.outputs is None else nodes[layer.outputs]
        assert model.layer(layer.name).weight.shape == (outputs, nodes[layer.inputs])


def test_changing_the_rows_of_a_group_changes_its_activation_alone(model: CCT) -> None:
    """The rows that a group names are those that write it, and no other group of its encoder before it reads them."""
    before = activations(model)
    for group in model.unit_groups():
        changed = CCT(model.config).eval()
        changed.load_state_dict(model.state_dict())
        with torch.no_grad():
            changed.layer(group.written_by).weight[group.rows] += 1.0
        after = activations(changed)
        same_layer = [other for other in model.unit_groups() if other.written_by == group.written_by]
        for other in same_layer:
            differs = not torch.equal(before[other.name], after[other.name])
            attention = other.kind == "heads" and group.kind in ("query", "key")  # heads weigh tokens by these
            assert differs == (other.name == group.name or attention)


def test_columns_of_a_group_are_what_reads_it(model: CCT) -> None:
    """Of as many columns as there are units; a linear layer with a bias that a mean can be folded into."""
    for group in model.unit_groups():
        assert activations(model)[group.name].shape[-1] == group.units
        if group.read_by is not None:
            reader = model.layer(group.read_by)
            assert reader.weight.shape[1] == group.units
            assert (reader.bias is None) == (group.kind == FILTERS)
