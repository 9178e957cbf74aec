"""How many cores a process may use, on any system and under a container's limit."""

import os
from pathlib import Path

import pytest
from headwise.cores import usable_cores


@pytest.mark.parametrize(("limit", "cores"), [("max 100000", 1 << 20), ("50000 100000", 1), ("150000 100000", 2)])
def test_cores_are_no_more_than_the_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int
) -> None:
    """A CPU limit of one and a half cores is two at most; without a limit every core counts."""
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(1 << 20), raising=False)
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert usable_cores(tmp_path / "cpu.max") == cores
    assert usable_cores(tmp_path / "none") == 1 << 20


@pytest.mark.parametrize(("there", "expected"), [(6, 6), (None, 1)])
def test_system_without_affinity_counts_all_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int | None, expected: int
) -> None:
    """macOS and Windows do not say which cores a process may be scheduled on; one where their number is unknown."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: there)
    assert usable_cores(tmp_path / "none") == expected
