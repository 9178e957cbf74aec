"""Removal by this project against that by others, at the same operations."""

import json
from dataclasses import replace
from pathlib import Path

import pruning_methods
import pytest
import support
import torch
import torch_pruning_cct
from headwise_exporter.model.config import cct, count_macs


def test_model_with_query_key_and_value_apart_is_the_same_function() -> None:
    """And joined again it has the weights it had."""
    model = support.random_model(support.convolved(support.small_config()))
    apart, images = torch_pruning_cct.Separate(model), torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        assert torch.allclose(apart(images), model(images)[0], atol=1e-4)
    assert apart.config() == model.config
    for name, value in apart.joined().state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


@pytest.mark.parametrize("by", ["taylor", "magnitude"])
def test_torch_pruning_keeps_no_more_than_the_share(by: str) -> None:
    """Of the operations; the small model is a CCT with the stream's width as it was."""
    config = cct(image_size=16, channels=1, labels=10, depth=1, heads=2, width=64, feed_forward=96)
    model = support.random_model(replace(config, conv_hidden_channels=(48,)))
    data = support.random_images(torch.arange(20) % 10, side=16)
    small = torch_pruning_cct.prune_to(model, 0.7, by, data)
    assert 0.3 < count_macs(small.config) / count_macs(model.config) <= 0.7
    assert small.config.width == model.config.width
    with torch.no_grad():
        assert small(torch.randn(2, 1, 16, 16))[0].isfinite().all()


def test_every_method_is_trained_alike_and_recorded(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each at no more than the operations asked for, paired with the search, drawn, and not done twice."""
    monkeypatch.setattr(pruning_methods, "CRITERIA", ("taylor", "random"))
    small = ("--macs", "0.8", "--seeds", "1", "--images", "64", "--threads", "1", "--results", tmp_path)
    arguments = (built / "run", "digits", *small, "--set", "prune.epochs=1", "--set", "prune.search.images=20")
    done = support.script(pruning_methods.main, *arguments)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "digits/pruning_methods.json").read_text("utf-8"))
    rows = record["rows"]
    assert [row["method"] for row in rows][:3] == ["search", "one shot, taylor", "one shot, random"]
    assert {row["method"] for row in rows} >= {"budget, taylor", "torch-pruning, taylor", "fresh", "one shot, random"}
    assert len({row["epochs"] for row in rows}) == 1
    assert all(row["macs"] <= 0.8 * record["dense_macs"] for row in rows)
    [of_search] = [entry for entry in record["summary"] if entry["method"] == "search"]
    assert (of_search["to_search"], of_search["p_values"]) == ([0.0], [1.0])
    assert (tmp_path / "digits/pruning_methods.svg").is_file()
    before = rows
    assert support.script(pruning_methods.main, *arguments).exit_code == 0
    again = json.loads((tmp_path / "digits/pruning_methods.json").read_text("utf-8"))["rows"]
    assert again == before
