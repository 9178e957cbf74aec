"""What an installation weighs: how it is measured, and that the README says what was measured."""

import json
from pathlib import Path

from installed_size import MIB, size_bytes

ROOT = Path(__file__).parents[2]


def test_size_is_that_of_all_files(tmp_path: Path) -> None:
    """In every folder; a link weighs nothing."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "a").write_bytes(bytes(3))
    (tmp_path / "deep" / "b").write_bytes(bytes(4))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert size_bytes(tmp_path) == 7


def test_readme_states_the_recorded_sizes() -> None:
    """A row of the table for each that was measured; of the exporter the lighter one first."""
    rows = json.loads((ROOT / "results/installed_size.json").read_text("utf-8"))["rows"]
    table = (ROOT / "README.md").read_text("utf-8").partition("## Install")[2].partition("\n## ")[0]
    stated = [line.split("|")[-2].strip() for line in table.splitlines() if line.startswith("| `")][1:]
    assert stated == [f"{size / MIB:,.0f}" for size in sorted(row["bytes"] for row in rows)]
