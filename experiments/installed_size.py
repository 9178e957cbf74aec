"""What each way to install Headwise weighs: the files of a fresh virtual environment, beyond those of an empty one.

Packages come from wherever pip is set up to get them, in versions of the day, not of constraints.txt. The exporter is
measured twice: with the torch that pip chooses, which on Linux brings CUDA along, and with a build for the CPU that
is installed first (`--cpu-torch`).
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from records import RESULTS, ROOT, write_record
from rich.console import Console

EXTRAS = ("", "cli", "server,cpu", "exporter")  # the last with torch
MIB = 2**20


def size_bytes(folder: Path) -> int:
    """Of all files under a folder; links count nothing."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def measure(folder: Path, requirements: Sequence[str] = ()) -> dict[str, Any]:
    """Bytes and packages of a fresh environment with the requirements in it, one after another; and its torch."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip"]
    for requirement in requirements:
        subprocess.run([*pip, "install", "--quiet", requirement], check=True)
    listed = subprocess.run([*pip, "list", "--format", "freeze"], check=True, capture_output=True, text=True)
    versions = dict(line.split("==", 1) for line in listed.stdout.splitlines() if "==" in line)
    return {"bytes": size_bytes(folder), "packages": len(versions), "torch": versions.get("torch")}


def main(
    cpu_torch: Annotated[str, typer.Option(help="A build of torch for the CPU that pip can get: torch==VERSION+cpu.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = RESULTS / "installed_size.json",
) -> None:
    """Measure every row of `EXTRAS`, and the exporter with torch for the CPU."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        empty = measure(Path(work) / "empty")
        for extras, *before in [*((extras,) for extras in EXTRAS), (EXTRAS[-1], cpu_torch)]:
            ours = f"{ROOT}[{extras}]" if extras else str(ROOT)
            row = measure(Path(work) / f"environment-{len(rows)}", [*before, ours])
            row |= {name: row[name] - empty[name] for name in ("bytes", "packages")}
            rows.append({"extras": extras, **row})
            shown = f"[{extras}], torch {row['torch']}: {row['bytes'] / MIB:,.0f} MiB, {row['packages']} packages"
            Console().print(shown, markup=False, highlight=False)
    write_record(out, {"rows": rows})


if __name__ == "__main__":
    typer.run(main)
