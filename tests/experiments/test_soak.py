"""Growth of a server's memory under load."""

import json
from pathlib import Path

import pytest
import soak
import support


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
