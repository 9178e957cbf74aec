"""Augmentation on a GPU."""

import torch
from headwise_exporter.data.augmentation import AugmentationSettings, prepare

SETTINGS = AugmentationSettings(
    crop_area_min=0.8, flip=0.5, rotation_degrees=10.0, rand_augment_operations=2, mixup=0.8, cutmix=1.0, erasing=0.25
)


def test_same_parameters_on_a_gpu() -> None:
    """Without noise, which the device draws, a GPU gives what the CPU gives."""
    images = torch.randint(0, 256, (32, 32, 32, 3), generator=torch.Generator().manual_seed(0)).byte()
    settings = AugmentationSettings(**{**vars(SETTINGS), "erasing_noise": False})
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        labels = torch.arange(32, device=device)
        prepared = prepare(images.to(device), labels, settings, mean=(0.5,) * 3, std=(0.25,) * 3, labels=32)
        found.append([values.cpu() for values in prepared])
    different = (found[0][0] - found[1][0]).abs() > 1e-3
    assert float(different.float().mean()) < 0.01  # a rounding may cross a level of posterize or a threshold
    torch.testing.assert_close(found[1][1], found[0][1])
