"""The compact convolutional transformer."""

import math
from dataclasses import replace

import pytest
import support
import torch
from headwise_exporter.model.cct import CCT, DropPath, InputNormalisation, count_parameters
from headwise_exporter.model.config import CCTConfig, TokenGrid, cct, cct_7_3x1, cct_7_7x2, count_macs
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ENCODER = {
    "pre_norm.weight": (256,),
    "pre_norm.bias": (256,),
    "self_attn.qkv.weight": (768, 256),
    "self_attn.proj.weight": (256, 256),
    "self_attn.proj.bias": (256,),
    "linear1.weight": (512, 256),
    "linear1.bias": (512,),
    "norm1.weight": (256,),
    "norm1.bias": (256,),
    "linear2.weight": (256, 512),
    "linear2.bias": (256,),
}


def reference_state(labels: int, tokens: int, convs: list[tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the reference implementation's CCT-7 (arXiv:2104.05704)."""
    state: dict[str, tuple[int, ...]] = {
        "classifier.positional_emb": (1, tokens, 256),
        "classifier.attention_pool.weight": (1, 256),
        "classifier.attention_pool.bias": (1,),
        "classifier.norm.weight": (256,),
        "classifier.norm.bias": (256,),
        "classifier.fc.weight": (labels, 256),
        "classifier.fc.bias": (labels,),
    }
    state |= {f"tokenizer.conv_layers.{index}.0.weight": shape for index, shape in enumerate(convs)}
    return state | {f"classifier.blocks.{index}.{name}": shape for index in range(7) for name, shape in ENCODER.items()}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (cct_7_3x1(), reference_state(100, 256, [(256, 3, 3, 3)])),
        (cct_7_7x2(), reference_state(102, 196, [(64, 3, 7, 7), (256, 64, 7, 7)])),
    ],
    ids=["cct_7_3x1", "cct_7_7x2"],
)
def test_state_dict_is_the_reference_implementations(config: CCTConfig, expected: dict[str, tuple[int, ...]]) -> None:
    """No name missing, none left over, every shape the same: its checkpoints load."""
    assert {name: tuple(tensor.shape) for name, tensor in CCT(config).state_dict().items()} == expected


@pytest.mark.parametrize(("config", "millions"), [(cct_7_3x1(), 3.78), (cct_7_7x2(), 4.57)])
def test_published_sizes(config: CCTConfig, millions: float) -> None:
    """CCT-7/3x1 and CCT-7/7x2 have the published numbers of parameters."""
    assert round(count_parameters(CCT(config)) / 1e6, 2) == pytest.approx(millions, abs=0.011)


@pytest.mark.parametrize("config", [cct_7_3x1(), support.small_config(), support.uneven(support.small_config())])
def test_macs_are_what_torch_counts(config: CCTConfig) -> None:
    """Two operations for each multiply-accumulate of convolutions, products and attention, counted while running."""
    images = torch.zeros(1, config.channels, config.image_size, config.image_size)
    # The fused attention of the CPU is not among what the counter knows.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        CCT(config).eval()(images)
    assert 2 * count_macs(config) == counter.get_total_flops()


def layer_norm(x_BTD: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """A norm from its definition."""
    centred = x_BTD - x_BTD.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]


def test_forward_is_the_definition() -> None:
    """Encoders as `x = x + MHA(LN_pre(x)); x = LN_1(x); x = x + FF(x)`, then norm, pooling and classifier, by hand."""
    model = support.random_model().double()
    state = {name.removeprefix("classifier."): value for name, value in model.state_dict().items()}
    x_BTD = torch.randn(3, 16, 32, dtype=torch.float64)
    logits_BK, _ = model.classifier(x_BTD)
    x_BTD = x_BTD + state["positional_emb"]
    for block in ("blocks.0.", "blocks.1."):
        q, k, v = (layer_norm(x_BTD, state, f"{block}pre_norm") @ state[f"{block}self_attn.qkv.weight"].T).chunk(3, -1)
        heads = []
        for head in range(4):
            rows = slice(8 * head, 8 * head + 8)
            attention = (q[..., rows] @ k[..., rows].transpose(1, 2) / math.sqrt(8)).softmax(-1)
            heads.append(attention @ v[..., rows])
        projected = torch.cat(heads, -1) @ state[f"{block}self_attn.proj.weight"].T
        x_BTD = layer_norm(x_BTD + projected + state[f"{block}self_attn.proj.bias"], state, f"{block}norm1")
        hidden = functional.gelu(x_BTD @ state[f"{block}linear1.weight"].T + state[f"{block}linear1.bias"])
        x_BTD = x_BTD + hidden @ state[f"{block}linear2.weight"].T + state[f"{block}linear2.bias"]
    x_BTD = layer_norm(x_BTD, state, "norm")
    weights = (x_BTD @ state["attention_pool.weight"].T + state["attention_pool.bias"]).softmax(1)
    expected = (weights * x_BTD).sum(1) @ state["fc.weight"].T + state["fc.bias"]
    torch.testing.assert_close(logits_BK, expected)


def test_activations_have_their_shapes() -> None:
    """Every intermediate has its documented name and shape, also where encoders differ."""
    config = support.uneven(support.small_config())
    _, activations = CCT(config).eval()(torch.zeros(2, 1, 8, 8))
    expected = {"embedding": (2, 16, 32), "norm_scale": (2, 16), "pooling_weights": (2, 16), "classifier_head": (2, 32)}
    for index, shape in enumerate(config.encoders):
        sizes = {
            "query": shape.heads * shape.query_key_dim,
            "key": shape.heads * shape.query_key_dim,
            "heads": shape.heads * shape.value_dim,
            "feed_forward_hidden": shape.feed_forward,
            "feed_forward_out": 32,
        }
        expected |= {f"encoders.{index}.{name}": (2, 16, size) for name, size in sizes.items()}
        expected[f"encoders.{index}.norm1_scale"] = (2, 16)
    assert {name: tuple(value.shape) for name, value in activations.items()} == expected


def test_attention_is_handed_out_where_it_is_asked_for() -> None:
    """Each row of it adds up to one, what a head gives is its values so weighed, and the logits stay."""
    model, images = support.random_model().double(), torch.randn(3, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        expected, plain = model(images)
        logits, activations = model(images, with_attention=True)
    torch.testing.assert_close(logits, expected)
    assert activations.keys() - plain.keys() == {
        f"encoders.{n}.{kind}" for n in (0, 1) for kind in ("attention", "value")
    }
    attention_BHTT, value_BHTV = (activations[f"encoders.1.{kind}"] for kind in ("attention", "value"))
    torch.testing.assert_close(attention_BHTT.sum(-1), torch.ones(3, 4, 16, dtype=torch.float64))
    torch.testing.assert_close((attention_BHTT @ value_BHTV).transpose(1, 2).flatten(2), plain["encoders.1.heads"])


@pytest.mark.parametrize(
    "config",
    [
        cct(image_size=12, channels=1, labels=3, depth=1, heads=1, width=8, feed_forward=8),
        support.convolved(support.SMALL),
        replace(support.SMALL, image_size=30, conv_kernel=5, conv_stride=2, conv_padding=2),
        replace(support.SMALL, image_size=20, conv_kernel=4, conv_padding=1),
    ],
    ids=["3 x 3", "three convolutions", "5 x 5 by 2", "even kernel"],
)
@torch.no_grad()
def test_a_token_sees_the_square_that_the_grid_says(config: CCTConfig) -> None:
    """Of each pixel by itself, the tokens that move are those whose square holds it: their maps are all positive."""
    model, grid, side = support.random_model(config).double(), config.token_grid, config.image_size
    for layer in model.tokenizer.conv_layers:
        layer[0].weight.abs_()  # so that nothing cancels, and max-pooling alone may hide a pixel
    assert grid.rows * grid.columns == config.tokens
    centers = grid.first_center_pixels + grid.stride_pixels * torch.arange(grid.rows)
    pixels = torch.arange(side) + 0.5
    within_RY = (pixels - centers.unsqueeze(1)).abs() < grid.receptive_field_pixels / 2
    for row in range(side):
        column = (5 * row) % side
        images = torch.zeros(1, 1, side, side, dtype=torch.float64)
        images[..., row, column] = 1.0
        moved_T = model.tokenizer(images)[0].abs().amax((0, 2)) > 0
        expected = within_RY[:, row].unsqueeze(1) & within_RY[:, column]
        assert torch.equal(moved_T.unflatten(0, (grid.rows, grid.columns)), expected)


def test_grid_of_cct_7_3x1() -> None:
    """16 x 16 tokens, two pixels apart, each of 5 x 5 pixels about a pixel's centre."""
    assert cct_7_3x1().token_grid == TokenGrid(16, 16, 2, 5, 0.5)


def test_configuration_survives_json() -> None:
    """`from_dict` is the inverse of `to_dict`."""
    config = support.uneven(cct_7_7x2())
    assert CCTConfig.from_dict(config.to_dict()) == config


def test_width_must_be_shared_out_among_heads() -> None:
    """A width that is no multiple of the heads is refused."""
    with pytest.raises(ValueError, match="multiple of the number of heads"):
        cct(image_size=8, channels=1, labels=10, depth=1, heads=3, width=32, feed_forward=8)


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean() -> None:
    """In training each sample is dropped or scaled by 1 / (1 - rate); in evaluation nothing happens."""
    torch.manual_seed(0)
    layer, ones = DropPath(0.25), torch.ones(4000, 2, 3)
    dropped = layer(ones)
    torch.testing.assert_close(dropped.unique(), torch.tensor([0.0, 1 / 0.75]))
    assert (dropped == dropped[:, :1, :1]).all()
    assert dropped.mean() == pytest.approx(1.0, abs=0.05)
    assert layer.eval()(ones) is ones


def test_normalisation_is_the_usual_one() -> None:
    """(x / 255 - mean) / std for each channel."""
    images = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    expected = ((images / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    torch.testing.assert_close(InputNormalisation(mean, std)(images), expected)
