"""What a record says of the machine that it was made on."""

import datetime
from pathlib import Path

import pytest
from headwise_exporter import machine


def test_machine_is_this_one() -> None:
    """Cores, date and versions, as the records under results/ have them."""
    this = machine.machine()
    assert list(this) == ["processor", "cores", "date", "versions"]
    assert this["processor"]
    assert this["cores"] >= 1
    datetime.date.fromisoformat(this["date"])
    assert {"onnxruntime", "openvino", "torch"} <= set(this["versions"])


@pytest.mark.parametrize(("content", "expected"), [("processor\t: 0\nmodel name\t: A: B\n", "A: B"), ("", None)])
def test_processor_without_a_name_is_its_architecture(
    content: str, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every system names its processor."""
    (tmp_path / "cpuinfo").write_text(content)
    monkeypatch.setattr(machine, "PROCESSORS", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine.platform, "machine", lambda: "architecture")
    assert machine.machine()["processor"] == (expected or "architecture")
