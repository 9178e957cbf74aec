"""Statistics of channels and shuffles."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from headwise_exporter.data import base
from headwise_exporter.data.base import STD_MIN, channel_statistics, shuffled_by_label


def test_statistics_are_those_of_each_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean and deviation of each channel, in one chunk or in many of uneven size."""
    images_NYXC = np.random.default_rng(0).integers(0, 256, (50, 9, 7, 3), dtype=np.uint8)
    images_NYXC[..., 1] //= 4
    expected = (images_NYXC / 255).mean((0, 1, 2)), (images_NYXC / 255).std((0, 1, 2))
    np.testing.assert_allclose(channel_statistics(images_NYXC), expected, rtol=1e-13)
    monkeypatch.setattr(base, "CHUNK_PIXELS", 100)
    np.testing.assert_allclose(channel_statistics(images_NYXC), expected, rtol=1e-13)


def test_statistics_of_one_chunk_are_numpys_to_the_last_bit() -> None:
    """Grey images small enough for one chunk: as `mean` and `std` give them."""
    images_NYXC = np.random.default_rng(0).integers(0, 256, (1078, 8, 8, 1), dtype=np.uint8)
    scaled = images_NYXC / 255.0
    assert channel_statistics(images_NYXC) == ((float(scaled.mean()),), (float(scaled.std()),))


def test_statistics_take_bounded_memory(tmp_path: Path) -> None:
    """96 MiB of mapped pixels need less than 10 MiB of memory."""
    shape = (32, 1024, 1024, 3)
    images_NYXC = np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, shape)
    tracemalloc.start()
    mean, std = channel_statistics(images_NYXC)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 10 << 20
    assert (mean, std) == ((0.0,) * 3, (STD_MIN,) * 3)


def test_channel_that_is_the_same_everywhere_is_normalised_to_zero() -> None:
    """No division by nothing: photos through a filter can be trained on."""
    images_NYXC = np.full((4, 2, 2, 3), 200, np.uint8)
    mean, std = channel_statistics(images_NYXC)
    np.testing.assert_allclose((images_NYXC / 255 - mean) / std, 0.0, atol=1e-12)


def test_shuffle_keeps_labels_apart_and_never_changes() -> None:
    """Each label's own indices, in an order that is the same forever."""
    labels_N = np.array([0, 1] * 5)
    first, second = shuffled_by_label(labels_N, 2), shuffled_by_label(labels_N, 2)
    assert [indices.tolist() for indices in first] == [indices.tolist() for indices in second]
    assert [sorted(indices.tolist()) for indices in first] == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]
    assert first[0].tolist() == [4, 0, 2, 6, 8]
