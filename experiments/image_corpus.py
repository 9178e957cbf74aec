"""Whether exporter and server make the same of every file of a folder, and what they refuse.

    python experiments/image_corpus.py FOLDER --name "what it is" --json results/image_corpus.json

Each file below FOLDER goes through the exporter's cache, as an image it trains on, and through the server's function
for an image in a request. An outcome is one of:

- `equal`: both give the same pixels;
- `refused`: both refuse the file, for the reason that stands beside it;
- `differ`: other pixels, other reasons, or only one of them refuses it;
- `crashed`: an exception that is no refusal, the end of the process, or more time than the limit.

Files are decoded in child processes, one at a time in each, so that a file which ends its process or hangs is counted
and costs no other. A child may take `--memory-mib` more than it starts with; what needs more is refused for that.
"""

import hashlib
import os
import re
import resource
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from headwise.cores import usable_cores
from headwise.decoding import readable
from headwise.v1.bundle_pb2 import COLOR_MODE_RGB, FRAMING_CENTER, RESAMPLING_BILINEAR, ImageInput
from headwise_exporter.commands.console import progress
from headwise_exporter.data.base import DatasetError
from headwise_exporter.data.cache import decoded
from headwise_exporter.progress import silent
from headwise_server import images as server_images
from headwise_server.errors import InvalidArgument
from records import write_record
from rich.console import Console
from rich.table import Table
from rich.text import Text

Outcome = Literal["equal", "refused", "differ", "crashed"]
OUTCOMES: tuple[Outcome, ...] = ("equal", "refused", "differ", "crashed")
SIZE = 224
INPUT = ImageInput(
    height=SIZE,
    width=SIZE,
    channels=3,
    color_mode=COLOR_MODE_RGB,
    resampling=RESAMPLING_BILINEAR,
    framing=FRAMING_CENTER,
)
MIB = 2**20
PACKAGES = ("pillow", "pillow-heif", "numpy")


@dataclass(frozen=True)
class Result:
    """What came of a file."""

    outcome: Outcome
    reason: str = ""


def by_exporter(path: Path) -> np.ndarray | str:
    """The pixels that the exporter would train on, or why it refuses the file."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["HEADWISE_CACHE"] = cache
        try:
            return np.array(decoded("corpus", path.parent, [path], SIZE, silent)[0])
        except DatasetError as error:
            return str(error).splitlines()[-1].strip().removeprefix(f"{path.name}: ")


def by_server(path: Path) -> np.ndarray | str:
    """The pixels that the server would classify, or why it refuses the request."""
    try:
        return server_images.decoded(path.read_bytes(), INPUT, "images[0].encoded")
    except InvalidArgument as error:
        return error.description.removeprefix("expected an image, found ").removesuffix(".")


def compare(path: Path) -> Result:
    """What exporter and server make of a file."""
    trained, served = by_exporter(path), by_server(path)
    if isinstance(trained, str) and isinstance(served, str) and trained == served:
        return Result("refused", trained)
    if isinstance(trained, str) or isinstance(served, str):
        shown = (made if isinstance(made, str) else "pixels" for made in (trained, served))
        return Result("differ", "; ".join(shown))
    return Result("equal") if np.array_equal(trained, served) else Result("differ", "other pixels")


def work(connection: Connection, memory_mib: int) -> None:
    """In a child: answer each path with its result, until the other end is closed."""
    used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory_mib * MIB, resource.RLIM_INFINITY))
    while True:
        try:
            path = connection.recv()
        except EOFError:
            return
        try:
            result = compare(path)
        except Exception as error:  # a fault of ours, to be counted
            result = Result("crashed", f"{type(error).__name__}: {error}")
        connection.send(result)


class Child:
    """A process that compares one file at a time, and is replaced when a file ends it or takes too long."""

    def __init__(self, seconds: float, memory_mib: int) -> None:
        self.seconds, self.memory_mib = seconds, memory_mib
        self.start()

    def start(self) -> None:
        """Start a new process."""
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, self.memory_mib), daemon=True)
        self.process.start()
        other.close()

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.connection.close()

    def compare(self, path: Path) -> Result:
        """What comes of a file; its process may end."""
        try:
            self.connection.send(path)
            if self.connection.poll(self.seconds):
                received: Result = self.connection.recv()
                return received
            result = Result("crashed", f"took more than {self.seconds:g} seconds")
        except (EOFError, OSError):
            self.process.join()
            result = Result("crashed", f"ended its process with status {self.process.exitcode}")
        self.stop()
        self.start()
        return result


def compare_all(paths: list[Path], processes: int, seconds: float, memory_mib: int) -> list[Result]:
    """The results of all files, in their order."""
    own = threading.local()
    children: list[Child] = []

    def of(path: Path) -> Result:
        if not hasattr(own, "child"):
            own.child = Child(seconds, memory_mib)
            children.append(own.child)
        child: Child = own.child
        return child.compare(path)

    results = []
    try:
        with progress("compare", len(paths), "images") as advance, ThreadPoolExecutor(processes) as pool:
            for path, result in zip(paths, pool.map(of, paths), strict=True):
                results.append(result)
                advance(1, path.name)
    finally:
        for child in children:
            child.stop()
    return results


def corpus_sha256(root: Path, paths: list[Path]) -> str:
    """A hash over the names and contents of all files."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(
            f"{path.relative_to(root).as_posix()}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return digest.hexdigest()


def summary(root: Path, paths: list[Path], results: list[Result]) -> dict[str, Any]:
    """Counts of the outcomes; files by reason, numbers in it left out, with the first file of each."""
    groups: dict[tuple[Outcome, str], list[str]] = {}
    for path, result in zip(paths, results, strict=True):
        reason = re.sub(r"0x[0-9a-f]+|\d[\d,]*", "#", result.reason)
        groups.setdefault((result.outcome, reason), []).append(path.relative_to(root).as_posix())
    counts = Counter(result.outcome for result in results)
    reasons: list[dict[str, Any]] = [
        {"outcome": outcome, "reason": reason, "files": len(names), "first": names[0]}
        for (outcome, reason), names in groups.items()
        if outcome != "equal"
    ]
    reasons.sort(key=lambda row: (-OUTCOMES.index(row["outcome"]), -row["files"], row["reason"]))
    return {"n": len(paths), **{outcome: counts[outcome] for outcome in OUTCOMES}, "reasons": reasons}


def report(record: dict[str, Any]) -> Table:
    """The record as a table."""
    counts = ", ".join(f"{record[outcome]:,} {outcome}" for outcome in OUTCOMES)
    table = Table(title=f"{record['name']}: {record['n']:,} files, {counts}")
    for column in ("outcome", "files", "reason", "first of them"):
        table.add_column(column, justify="right" if column == "files" else "left", overflow="fold")
    for row in record["reasons"]:
        table.add_row(row["outcome"], f"{row['files']:,}", Text(row["reason"]), Text(row["first"]))
    return table


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of files, at any depth.", exists=True, file_okay=False)],
    name: Annotated[str | None, typer.Option(help="What the folder holds, for the record.")] = None,
    source: Annotated[Path | None, typer.Option(help="The archive it came from; its sha256 is recorded.")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="File for the record.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Child processes.")] = usable_cores(),
    seconds: Annotated[float, typer.Option(min=1, help="Limit for a file.")] = 120,
    memory_mib: Annotated[int, typer.Option(min=64, help="Limit for a child, beyond what it starts with.")] = 4096,
) -> None:
    """Compare, print and record. Exit status 1 when a file differs or crashes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        raise typer.BadParameter(f"{folder}: expected files, found none")
    record: dict[str, Any] = {"name": name or folder.name}
    if source is not None:
        record |= {"archive": source.name, "archive_sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
    record |= {
        "files_sha256": corpus_sha256(folder, paths),
        "readable": list(readable()),
        "packages": {package: version(package) for package in PACKAGES},
        "limits": {"seconds": seconds, "memory_mib": memory_mib},
        **summary(folder, paths, compare_all(paths, processes, seconds, memory_mib)),
    }
    if json_path is not None:
        write_record(json_path, record)
    Console().print(report(record))
    if record["differ"] or record["crashed"]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
