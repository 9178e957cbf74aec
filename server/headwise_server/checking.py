"""`headwise-server --check`: would every bundle of a repository be served on this machine, how exactly and how fast?

It goes the server's own way to each bundle, with the same checks and the same engine, and serves none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headwise.bundle import BundleError, read_golden_set
from headwise.graphs import golden_differences
from headwise.text import shown
from rich.table import Table
from rich.text import Text

from headwise_server.engines import EngineError
from headwise_server.folders import Scan
from headwise_server.loading import LoadSettings, load
from headwise_server.slowdown import run_seconds

BATCHES = (1, 8)
ROUNDS = 10


@dataclass(frozen=True)
class CheckedGraph:
    """What one graph of a bundle does on this machine."""

    graph: str  # "classify" or "explain"
    precision: str
    golden_difference: float  # largest of any output
    milliseconds: dict[int, float]  # of the fastest run, by images in the batch


@dataclass(frozen=True)
class CheckedBundle:
    """Whether a bundle would be served."""

    name: str
    version: int
    engine: str
    problem: str = ""  # why it would not
    graphs: list[CheckedGraph] = field(default_factory=list)


def _check(name: str, version: int, folder: Path, settings: LoadSettings) -> CheckedBundle:
    try:
        model = load(folder, settings)
        golden = read_golden_set(folder)
    except (BundleError, EngineError, OSError) as error:
        return CheckedBundle(name, version, settings.engine.name, " ".join(str(error).split()))
    graphs = [
        CheckedGraph(
            graph,
            session.precision,
            max(golden_differences(session.run(golden["images"]), golden).values()),
            {batch: min(1e3 * run_seconds(session, model, batch) for _ in range(ROUNDS)) for batch in BATCHES},
        )
        for graph, session in (("classify", model.classify), ("explain", model.explain))
    ]
    return CheckedBundle(name, version, model.engine, graphs=graphs)


def check(folders: Scan, settings: LoadSettings) -> Iterator[CheckedBundle]:
    """Check bundle after bundle, by name and version."""
    for name, versions in sorted(folders.versions.items()):
        for version, folder in sorted(versions.items()):
            yield _check(name, version, folder, settings)


def table(bundles: Sequence[CheckedBundle]) -> Table:
    """A row for each graph, or one for a bundle that would not be served."""
    result = Table(title=f"{bundles[0].engine}; difference to the golden set; ms by batch", title_justify="left")
    result.add_column("model", min_width=6, overflow="fold")
    for column in ("version", "graph", "precision"):
        result.add_column(column, no_wrap=True)
    for column in ("golden", *(f"ms, {batch}" for batch in BATCHES)):
        result.add_column(column, justify="right", no_wrap=True)
    result.add_column("verdict", no_wrap=True)
    for bundle in bundles:
        first = (Text(shown(bundle.name)), str(bundle.version))
        if bundle.problem:
            result.add_row(*first, *[""] * (3 + len(BATCHES)), Text("bad", style="red"))
        for graph in bundle.graphs:
            times = [f"{graph.milliseconds[batch]:.2f}" for batch in BATCHES]
            result.add_row(*first, graph.graph, graph.precision, f"{graph.golden_difference:.1e}", *times, "good")
    return result
