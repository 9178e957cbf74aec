"""What options come to together."""

from dataclasses import replace

import pytest
import support
import torch
from headwise_exporter.commands.settings import warn_of_emulated_bf16


@pytest.mark.parametrize(
    ("computes", "bf16", "warned"), [(False, True, True), (True, True, False), (False, False, False)]
)
def test_emulated_bf16_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], computes: bool, bf16: bool, warned: bool
) -> None:
    """Where the processor does not compute in it, and the recipe asks for it; with the setting that helps."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: computes)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe = support.small_recipe()
    warn_of_emulated_bf16(replace(recipe, training=replace(recipe.training, bf16=bf16)))
    assert ("--set training.bf16=false" in capsys.readouterr().err) == warned
