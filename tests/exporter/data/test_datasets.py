"""Which settings a data set takes."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from headwise_exporter.data.base import DatasetError, DatasetSettings
from headwise_exporter.data.datasets import NAMES, check_settings, load, model_name


@pytest.mark.parametrize("name", ["mnist", "digits:x", "folder", "folder:", ""])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    """An unknown data set is an error that says which there are."""
    expected = f"unknown data set {name!r}; expected one of: {', '.join(NAMES)}."
    with pytest.raises(DatasetError, match=re.escape(expected)):
        load(DatasetSettings(name))


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A mistyped path is an error before anything is loaded."""
    with pytest.raises(DatasetError, match=r"absent is not a folder. Expected folder:PATH"):
        check_settings(DatasetSettings(f"folder:{tmp_path / 'absent'}"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (DatasetSettings("cifar100", protocol="mine"), "unknown protocol 'mine' of cifar100; expected: official"),
        (DatasetSettings("flowers102", protocol="x"), "expected: official, official-trainval"),
        (DatasetSettings("folder:.", protocol="official"), "of folder; expected: auto, labels, splits"),
        (DatasetSettings("digits", image_size=32), "digits has images of 8 pixels a side alone, found 32"),
        (DatasetSettings("flowers102", image_size=4), "expected an image size from 8 to 1024 pixels a side, found 4"),
        (DatasetSettings("digits", data_dir="data"), "digits takes no data folder, found data"),
        (DatasetSettings("cifar100", data_dir=__file__), "expected a folder for the data, found the file"),
    ],
)
def test_wrong_setting_says_what_is_expected(settings: DatasetSettings, expected: str) -> None:
    """A setting that a data set cannot take is an error that names those it can."""
    with pytest.raises(DatasetError, match=expected):
        check_settings(settings)


def test_settings_go_through_json() -> None:
    """What a run records makes the same settings again."""
    settings = DatasetSettings("flowers102", "data", "official-trainval", 112)
    check_settings(settings)
    assert DatasetSettings(**json.loads(json.dumps(asdict(settings)))) == settings


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar100", "cifar100"),
        ("folder:/data/leaves", "leaves"),
        ("folder:/data/my leaves (2)/", "my-leaves-2"),
        ("folder:/data/.hidden", "hidden"),
        ("folder:/", "folder"),
        ("folder:/data/日本", "folder"),
    ],
)
def test_model_is_named_for_its_data_set(name: str, expected: str) -> None:
    """A name that can be a folder and a model's, whatever the folder is called."""
    assert model_name(DatasetSettings(name)) == expected
