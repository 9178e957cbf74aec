"""The dashboard and the documentation name the metrics that a server has, and no others."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from headwise_server.telemetry import Telemetry
from http_support import HttpServer, running_http_server
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parent.parent
DASHBOARD = json.loads((ROOT / "deploy/grafana/headwise.json").read_text("utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}


@pytest.fixture(scope="module")
def families(repository: Path) -> Iterator[dict[str, tuple[str, set[str]]]]:
    """Kind and labels of every metric of a server, by name."""
    with running_http_server(repository) as http:
        http.wait_until_ready()
        http.classify()
        http.classify(b"no picture")
        yield {name: value for name, value in exposed(http) if not name.endswith("_created")}


def exposed(http: HttpServer) -> Iterator[tuple[str, tuple[str, set[str]]]]:
    """The metrics of /metrics; those that nothing was counted for have their labels from their declaration."""
    declared = {
        collector._name: set(collector._labelnames)  # the package has no public way to ask
        for collector in Telemetry().registry._collector_to_names
        if hasattr(collector, "_labelnames")
    }
    for family in text_string_to_metric_families(http.get("/metrics").text):
        labels = {label for sample in family.samples for label in sample.labels} | declared.get(family.name, set())
        yield family.name, (family.type, labels)


def metrics_in(query: str) -> set[str]:
    """The names of metrics in a query."""
    return set(re.findall(r"\b(?:headwise|process)_[a-z_]+", query))


@pytest.mark.parametrize("query", QUERIES)
def test_query_names_metrics_and_labels_that_exist(query: str, families: dict[str, tuple[str, set[str]]]) -> None:
    """Every metric, with the suffix of its kind, and every label that is grouped by."""
    names = {name + suffix: name for name, (kind, _) in families.items() for suffix in SUFFIXES[kind]}
    used = metrics_in(query)
    assert used
    assert used <= names.keys()
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
    labels = set().union(*(families[names[name]][1] for name in used))
    assert grouped <= labels | {"le"}


def test_legends_name_labels_that_their_queries_have(families: dict[str, tuple[str, set[str]]]) -> None:
    """None stays empty."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
            known = {label.strip() for group in grouped for label in group.split(",")}
            for name in metrics_in(target["expr"]) & families.keys():
                known |= families[name][1]
            assert named <= known


def test_every_metric_is_on_the_dashboard_and_in_the_documentation(families: dict[str, tuple[str, set[str]]]) -> None:
    """The table of docs/serving.md has exactly those, with their labels."""
    own = {name for name in families if name.startswith("headwise_")}
    shown = set().union(*map(metrics_in, QUERIES))
    text = (ROOT / "docs/serving.md").read_text("utf-8").partition("## Metrics\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`headwise.*?) \| ?(.*?) ?\|", text, re.MULTILINE)
    documented = {name: labels for names, labels in rows for name in re.findall(r"`(\w+)`", names)}
    for name in own:
        kind, labels = families[name]
        assert any(name + suffix in shown for suffix in SUFFIXES[kind]), name
        written = name + "_total" if kind == "counter" else name
        assert documented.pop(written).split(", ") == (sorted(labels - {"le"}, key=documented_order) or [""]), name
    assert documented == {}


def documented_order(label: str) -> int:
    """Where a label stands in a row."""
    return ("service", "method", "code", "reason", "model", "version", "graph", "state").index(label)
