"""Growth of a server's memory under load."""

import json
import os
from pathlib import Path

import pytest
import soak
import support
from soak import growth, resident_mib


def test_short_soak_is_answered_right_and_sampled(
    server: support.ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve seconds at a tenth of what the server can do."""
    monkeypatch.setattr(soak, "SATURATION_SECONDS", 0.5)
    file = tmp_path / "record.json"
    arguments = ("--target", server.address, "--pid", str(server.process.pid), "--minutes", "0.25", "--share", "0.1")
    result = support.script(soak.main, *arguments, "--record", file)
    assert result.exit_code == 0, result.output
    record = json.loads(file.read_text("utf-8"))
    assert record["calls"]["ok"] > 0
    assert record["wrong_replies"] == 0
    assert record["resident_mib"]["largest"] >= record["resident_mib"]["last_tenth"] > 0


def test_growth_is_between_the_second_and_the_last_tenth() -> None:
    """What the first tenth fills is no growth."""
    values = growth([*[1.0] * 10, *[50.0] * 10, *[70.0] * 70, *[60.0] * 10])
    assert values == {"second_tenth": 50.0, "last_tenth": 60.0, "largest": 70.0, "growth": 10.0}


def test_few_samples_are_refused() -> None:
    """They say nothing."""
    with pytest.raises(ValueError, match="expected 20 samples or more, found 19"):
        growth([1.0] * 19)


def test_resident_set_is_that_of_the_system() -> None:
    """Of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    assert resident_mib(os.getpid()) == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, rel=0.1)
