"""Augmentation: what each setting does to an image, its randomness, and the whole chain."""

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from headwise_exporter.data import augmentation
from headwise_exporter.data.augmentation import (
    COLOUR,
    OPERATIONS,
    AugmentationSettings,
    Policy,
    augment,
    draw_policy,
    erase,
    mix,
    prepare,
    soft_targets,
    to_unit,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

OFF = AugmentationSettings()
ALL = AugmentationSettings(
    crop_area_min=0.8,
    flip=0.5,
    rotation_degrees=10.0,
    scaling=0.1,
    shift=0.1,
    fill="mean",
    rand_augment_operations=2,
    erasing=0.25,
    mixup=0.8,
    cutmix=1.0,
)
CROP_OF_EVERYTHING = AugmentationSettings(crop_area_min=1 - 1e-7, crop_ratio=1.0)


def random_images(batch: int = 8, channels: int = 3, side: int = 16, seed: int = 0) -> Tensor:
    """uint8 images (B, Y, X, C)."""
    shape = (batch, side, side, channels)
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def prepared(images_BYXC: Tensor, settings: AugmentationSettings, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The whole chain after seeding; each image has a label of its own."""
    torch.manual_seed(seed)
    channels, labels = images_BYXC.shape[-1], torch.arange(len(images_BYXC))
    mean, std = (0.5, 0.4, 0.3)[:channels], (0.2, 0.3, 0.25)[:channels]
    return prepare(images_BYXC, labels, settings, mean=mean, std=std, labels=len(images_BYXC), smoothing=0.1)


def smooth_image(side: int, low: int = 0, high: int = 255) -> np.ndarray:
    """A grey picture (Y, X) of few waves, so that how it is interpolated hardly matters."""
    waves = Image.fromarray(random_images(1, 1, 6)[0, :, :, 0].numpy()).resize((side, side))
    return low + (np.asarray(waves) * ((high - low) / 255)).astype(np.uint8)


def augment_grey(image_YX: np.ndarray, operations: int = 1) -> Tensor:
    """What RandAugment alone makes of one grey picture, in levels (Y, X)."""
    images = torch.from_numpy(image_YX)[None, None] / 255
    return augment(images, replace(OFF, rand_augment_operations=operations))[0, 0] * 255


def only(name: str, batch: int, level: float, sign: float) -> Policy:
    """One operation for every image."""
    full = torch.full((1, batch), OPERATIONS.index(name))
    return Policy(full, torch.full((1, batch), level), torch.full((1, batch), sign))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Policy]:
    """What RandAugment draws: set `drawn["policy"]`."""
    chosen: dict[str, Policy] = {}
    monkeypatch.setattr(augmentation, "draw_policy", lambda batch, settings: chosen["policy"])
    return chosen


def test_off_is_the_identity() -> None:
    """With default settings an image is only normalised, its label only smoothed, and no number is drawn."""
    images = random_images()
    before = torch.get_rng_state()
    inputs, targets = prepare(images, torch.arange(8), OFF, mean=(0.5,) * 3, std=(0.25,) * 3, labels=10, smoothing=0.1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(inputs, (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)
    torch.testing.assert_close(targets, torch.eye(10)[:8] * 0.9 + 0.01)


def test_settings_are_json() -> None:
    """Settings survive JSON."""
    assert AugmentationSettings(**json.loads(json.dumps(asdict(ALL)))) == ALL


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"flip": 1.5}, "flip in 0 .. 1, found 1.5"),
        ({"mixup": -1.0}, "mixup of 0 .off. or more, found -1.0"),
        ({"crop_area_min": 0.0}, "0 < crop_area_min <= crop_area_max"),
        ({"erasing_area_min": 0.5}, "erasing_area_min <= erasing_area_max"),
        ({"crop_ratio": 0.5}, "crop_ratio >= 1"),
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any], message: str) -> None:
    """The error names the setting, what was expected and what it was."""
    with pytest.raises(ValueError, match=message):
        AugmentationSettings(**wrong)


@pytest.mark.parametrize("channels", [1, 3])
def test_same_state_gives_the_same_batch(channels: int) -> None:
    """Equal generator states give equal batches, bit for bit; another state another batch."""
    images = random_images(channels=channels)
    first, second, other = (prepared(images, ALL, seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], other[0])
    assert first[0].dtype == first[1].dtype == torch.float32
    assert first[0].shape == (8, channels, 16, 16)


def test_autocast_changes_nothing() -> None:
    """Places are computed in float32 whatever the training's precision."""
    images = random_images(side=32)
    expected = prepared(images, ALL)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = prepared(images, ALL)
    assert all(torch.equal(a, b) for a, b in zip(under_autocast, expected, strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        AugmentationSettings(crop_area_min=0.3),
        AugmentationSettings(rotation_degrees=20.0),
        AugmentationSettings(scaling=0.3),
        AugmentationSettings(shift=0.3),
        AugmentationSettings(erasing=1.0),
        AugmentationSettings(mixup=0.8),
        AugmentationSettings(cutmix=1.0),
    ],
)
def test_each_image_draws_for_itself(settings: AugmentationSettings) -> None:
    """Copies of one image (in two labels, so that mixing shows) all come out different."""
    images = torch.cat([random_images(2, seed=1)] * 6)
    inputs, targets = prepared(images, settings, seed=3)  # in which no two windows have the same area
    different = inputs.flatten(1) if not (settings.mixup or settings.cutmix) else targets.amax(1, keepdim=True)
    assert len(torch.unique(different[::2], dim=0)) == 6


def test_rand_augment_draws_for_each_image() -> None:
    """Operations, signs and levels differ between images, and all operations occur equally often."""
    policy = draw_policy(15_000, replace(ALL, rand_augment_probability=0.5))
    counts = torch.bincount(policy.operation_SB.flatten(), minlength=len(OPERATIONS) + 1)
    assert abs(float(counts[-1]) / 30_000 - 0.5) < 0.02
    assert float((counts[:-1] / 1000 - 1).abs().max()) < 0.15
    assert not torch.equal(policy.operation_SB[0], policy.operation_SB[1])
    assert 0.0 <= float(policy.level_SB.min()) < float(policy.level_SB.max()) == 1.0
    assert abs(float(policy.level_SB.mean()) - 0.9) < 0.01
    assert abs(float(policy.sign_SB.mean())) < 0.03


@given(
    seed=st.integers(0, 2**31),
    channels=st.sampled_from([1, 3]),
    side=st.integers(5, 20),
    batch=st.integers(1, 9),
    magnitude=st.floats(0.0, 10.0),
    extreme=st.booleans(),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_range_stays(seed: int, channels: int, side: int, batch: int, magnitude: float, extreme: bool) -> None:
    """Whatever is drawn, values stay in 0 .. 1 before normalisation, and the input is not touched."""
    torch.manual_seed(seed)
    images = to_unit(random_images(batch, channels, side, seed))
    images = images.round() if extreme else images
    before = images.clone()
    settings = replace(ALL, rand_augment_magnitude=magnitude, rand_augment_probability=1.0)
    augmented = augment(images, settings, torch.rand(channels))
    assert augmented.shape == images.shape
    assert float(augmented.min()) >= 0.0
    assert float(augmented.max()) <= 1.0
    assert torch.equal(images, before)


def test_flip_of_a_flip_is_the_image() -> None:
    """Flipping is mirroring left to right, and its own inverse; half of the images are flipped at 0.5."""
    images = to_unit(random_images())
    flipped = augment(images, AugmentationSettings(flip=1.0))
    torch.testing.assert_close(flipped, images.flip(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(augment(flipped, AugmentationSettings(flip=1.0)), images, atol=1e-5, rtol=0)
    torch.manual_seed(0)
    images = to_unit(random_images(400, 1, 5))
    same = (augment(images, AugmentationSettings(flip=0.5)) - images).abs().amax((1, 2, 3)) < 1e-5
    assert 150 < int(same.sum()) < 250


def test_crop_of_everything_is_the_identity() -> None:
    """A crop of the full area gives the image to 1e-5, whatever the fill."""
    images = to_unit(random_images(side=32))
    torch.testing.assert_close(augment(images, CROP_OF_EVERYTHING, torch.ones(3)), images, atol=1e-5, rtol=0)


def test_crop_shows_a_window_of_the_stated_area() -> None:
    """On an image whose values are its places, the crop spans the drawn area, inside, without any fill."""
    ramp = (torch.arange(64) + 0.5) / 64
    images = torch.stack((ramp.expand(64, 64), ramp.expand(64, 64).T, torch.zeros(64, 64))).expand(50, 3, 64, 64)
    torch.manual_seed(0)
    crops = augment(images, AugmentationSettings(crop_area_min=0.2, crop_area_max=0.3), torch.ones(3))
    assert float(crops[:, 2].max()) < 1e-6  # no fill, not even at the edge
    width, height = ((crops[:, i].amax((1, 2)) - crops[:, i].amin((1, 2))) * 64 / 63 for i in range(2))
    area, ratio = width * height, width / height
    assert 0.19 < float(area.min()) < 0.22
    assert 0.28 < float(area.max()) < 0.31
    assert 0.74 < float(ratio.min()) < 0.85
    assert 1.2 < float(ratio.max()) < 1.35


def test_a_crop_that_never_fits_is_the_whole_image() -> None:
    """Ratios that do not fit at full area fall back on the image itself."""
    images = to_unit(random_images())
    settings = replace(CROP_OF_EVERYTHING, crop_ratio=2.0)
    torch.testing.assert_close(augment(images, settings), images, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("level", [0.2, 0.9])
def test_rotation_is_pils(drawn: dict[str, Policy], level: float, sign: float) -> None:
    """RandAugment's rotation is PIL's bilinear one to 2 of 255 levels in the interior."""
    image = smooth_image(48)
    drawn["policy"] = only("rotate", 1, level, sign)
    turned = Image.fromarray(image).rotate(30 * level * sign, resample=Image.Resampling.BILINEAR)
    apart = augment_grey(image) - torch.from_numpy(np.array(turned))
    assert float(apart[14:34, 14:34].abs().max()) <= 2  # inside of what any turn brings in


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("shear_x", (1, 0.27, 0, 0, 1, 0)),
        ("shear_y", (1, 0, 0, 0.27, 1, 0)),
        ("translate_x", (1, 0, 0.405 * 40, 0, 1, 0)),
        ("translate_y", (1, 0, 0, 0, 1, 0.405 * 40)),
    ],
)
def test_shears_and_translations_are_pils(
    drawn: dict[str, Policy], name: str, matrix: tuple[float, ...], sign: float
) -> None:
    """At level 0.9 the others are PIL's affine transforms, to 2 of 255 levels away from the fill's edge."""
    image = smooth_image(40, 100, 250)
    drawn["policy"] = only(name, 1, 0.9, sign)
    ours = augment_grey(image)
    signed = tuple(value if index in (0, 4) else value * sign for index, value in enumerate(matrix))
    moved = Image.fromarray(image).transform((40, 40), Image.Transform.AFFINE, signed, Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(moved)).float()
    inside = torch.nn.functional.avg_pool2d((expected[None] > 0).float(), 3, 1, 1)[0] > 0.99
    assert float((ours - expected)[inside].abs().max()) <= 2
    assert float(((ours > 50) != (expected > 0)).float().mean()) < 0.03  # PIL's edge is hard, ours is blended


def test_operations_compose_in_their_order(drawn: dict[str, Policy]) -> None:
    """A translation after a rotation is not one before it: the second acts on the result of the first."""
    image, policies = smooth_image(48), [only(name, 1, 0.5, 1.0) for name in ("rotate", "translate_x")]
    steps = image
    for drawn["policy"] in policies:
        steps = augment_grey(steps).round().byte().numpy()
    apart = []
    for order in (policies, policies[::-1]):
        drawn["policy"] = Policy(*(torch.cat(values) for values in zip(*order, strict=True)))
        composed = augment_grey(image, operations=2)
        apart.append(float((composed - torch.from_numpy(steps))[14:34, 14:34].abs().max()))
    assert apart[0] <= 3
    assert apart[1] > 20


@pytest.mark.parametrize("name", list(COLOUR))
def test_colour_operations_reach_only_those_that_drew_them(drawn: dict[str, Policy], name: str) -> None:
    """An image that drew nothing stays as it is beside others that drew an operation."""
    images = to_unit(random_images(4, side=24))
    drawn["policy"] = only(name, 4, 0.9, 1.0)
    drawn["policy"].operation_SB[0, 1::2] = len(OPERATIONS)
    augmented = augment(images, replace(OFF, rand_augment_operations=1))
    torch.testing.assert_close(augmented[1::2], images[1::2], atol=1e-5, rtol=0)
    arguments = (torch.full((2, 1, 1, 1), 0.9), torch.ones(2, 1, 1, 1))
    torch.testing.assert_close(augmented[::2], COLOUR[name](images[::2], *arguments), atol=2e-2, rtol=0)


def test_fill_comes_in_from_outside(drawn: dict[str, Policy]) -> None:
    """A shifted image leaves exactly the fill behind; black by default."""
    images, fill = torch.ones(1, 3, 20, 20), torch.tensor([0.5, 0.25, 0.125])
    drawn["policy"] = only("translate_x", 1, 1.0, 1.0)  # 9 of 20 pixels
    settings = replace(OFF, rand_augment_operations=1)
    torch.testing.assert_close(augment(images, settings, fill)[0, :, 5, -8:], fill[:, None].expand(3, 8))
    assert float(augment(images, settings)[0, :, :, -8:].max()) == 0.0


def test_images_that_are_not_square_are_refused() -> None:
    """Rotating a wide image would need another formula."""
    with pytest.raises(ValueError, match="expected square images, found 4 x 6 pixels"):
        augment(torch.rand(1, 3, 4, 6), AugmentationSettings(flip=0.5))


@given(seed=st.integers(0, 2**31), quarter=st.integers(1, 3), noise=st.booleans())
@hypothesis_settings(max_examples=20, deadline=None)
def test_erasing_erases_the_stated_share(seed: int, quarter: int, noise: bool) -> None:
    """A square of the stated area, one for each image, somewhere else in each; the rest stays."""
    torch.manual_seed(seed)
    images = torch.full((12, 3, 32, 32), 7.0)
    share = (quarter / 4) ** 2
    area = {"erasing_area_min": share, "erasing_area_max": share, "erasing_ratio": 1.0}
    erased = erase(images, AugmentationSettings(erasing=1.0, erasing_noise=noise, **area))
    is_erased = (erased != images).all(1)
    assert torch.equal(is_erased.sum((1, 2)), torch.full((12,), int(share * 1024)))
    assert torch.equal(is_erased.any(1).sum(1), torch.full((12,), 8 * quarter))
    assert len(torch.unique(is_erased, dim=0)) > 1
    values = erased.permute(0, 2, 3, 1)[is_erased]
    assert abs(float(values.mean())) < 0.2
    assert abs(float(values.std()) - noise) < 0.2


def test_erasing_meets_the_stated_number_of_images() -> None:
    """A quarter of the images at 0.25."""
    torch.manual_seed(0)
    images = torch.ones(2000, 1, 16, 16)
    hit = (erase(images, AugmentationSettings(erasing=0.25)) != images).flatten(1).any(1)
    assert abs(float(hit.float().mean()) - 0.25) < 0.03


@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 9),
    mixup=st.sampled_from([0.0, 0.2, 0.8]),
    cutmix=st.sampled_from([0.0, 1.0]),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_mixed_labels_are_shares_of_pixels(seed: int, batch: int, mixup: float, cutmix: float) -> None:
    """Targets sum to 1, and hold exactly the share of each image that the picture holds, by mixup or by cutmix."""
    torch.manual_seed(seed)
    identity = torch.eye(batch)
    images = identity.view(batch, batch, 1, 1).expand(batch, batch, 16, 16)  # channel k is label k's part
    mixed, targets = mix(images, identity, replace(OFF, mixup=mixup, cutmix=cutmix))
    torch.testing.assert_close(targets.sum(1), torch.ones(batch))
    torch.testing.assert_close(targets, mixed.mean((2, 3)), atol=1e-6, rtol=0)


def test_cutmix_pastes_one_window_of_whole_pixels() -> None:
    """Each pixel is of one image or the other, the other's form a rectangle, and the label counts them exactly."""
    torch.manual_seed(0)
    images = torch.eye(40).view(40, 40, 1, 1).expand(40, 40, 16, 16)
    mixed, targets = mix(images, torch.eye(40), replace(OFF, cutmix=1.0))
    own, other = (mixed[torch.arange(40), torch.arange(40) - shift] for shift in (0, 1))
    assert torch.equal(own + other, torch.ones(40, 16, 16))
    assert torch.equal(targets.diagonal(), (own == 1).sum((1, 2)) / 256)
    assert torch.equal(other.sum((1, 2)), other.amax(1).sum(1) * other.amax(2).sum(1))


def test_mixup_and_cutmix_switch() -> None:
    """With both on, half of the images are cut at a switch of 0.5."""
    torch.manual_seed(0)
    images = torch.arange(1000.0).view(-1, 1, 1, 1).expand(1000, 1, 8, 8)
    mixed, _ = mix(images, torch.zeros(1000, 2), replace(OFF, mixup=0.8, cutmix=1.0))
    blended = ((mixed - images).abs() > 1e-3) & ((mixed - images.roll(1, 0)).abs() > 1e-3)
    assert abs(float(blended.flatten(1).all(1).float().mean()) - 0.5) < 0.06


def test_soft_targets_are_label_smoothing() -> None:
    """Cross-entropy with soft targets is torch's with label smoothing."""
    logits, labels = torch.randn(6, 10, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    loss = torch.nn.functional.cross_entropy(logits, soft_targets(labels, 10, 0.1))
    torch.testing.assert_close(loss, expected)


class CountedCalls(TorchDispatchMode):
    """Counts the operations that torch carries out."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and go on."""
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_number_of_operations_does_not_grow_with_the_batch() -> None:
    """No loop over images: four times the batch takes as many calls."""
    calls = []
    for batch in (256, 1024):
        with CountedCalls() as counted:
            prepared(random_images(batch, side=8), ALL)
        calls.append(counted.calls)
    assert calls[0] == calls[1]
