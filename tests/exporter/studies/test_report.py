"""The page about a run: complete, self-contained, and true to its records."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from headwise.bundle import read_manifest
from headwise_exporter.commands.console import progress
from headwise_exporter.data.base import Dataset, DatasetSettings
from headwise_exporter.data.datasets import load
from headwise_exporter.data.images import split_images
from headwise_exporter.nodes.snp import NodeMeasurement
from headwise_exporter.stages.measure import controls_stage
from headwise_exporter.stages.report import report_stage
from headwise_exporter.stages.run import COMPARISON, SUBSETS, RunError, run_comparison
from headwise_exporter.stages.study import compare_stage, subsets_stage
from headwise_exporter.studies.drawing import svg
from headwise_exporter.studies.pictures import pictures
from headwise_exporter.studies.report import bundle_page, example_nodes, label_changes, page
from headwise_exporter.studies.settings import ComparisonSettings, SubsetSettings
from PIL import Image
from support import small_recipe

SETTINGS = ComparisonSettings(shares=(0.5, 0.1), mask_by=("andc", "random"), seeds=1, images=100)
RESULTS = Path(__file__).parents[3] / "results"
LOADING = {"src", "href", "srcset", "data", "poster", "action", "xlink:href"}  # attributes that make a browser ask


class Requests(HTMLParser):
    """What a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect scripts, and attributes that point out of the page."""
        if tag == "script":
            self.loaded.append(tag)
        self.loaded += [
            value for name, value in attrs if name in LOADING and value and not value.startswith(("#", "data:"))
        ]


def no_data() -> Dataset:
    """In the place of a data set where none is needed."""
    raise AssertionError("the data set was loaded")


@pytest.fixture(scope="module")
def run(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on which everything was tried, and reported."""
    folder = Path(shutil.copytree(built / "run", tmp_path_factory.mktemp("report") / "run"))
    data = load(DatasetSettings("digits"))
    controls_stage(folder, small_recipe().findings, small_recipe().probes, data, progress)
    compare_stage(folder, SETTINGS, small_recipe().training, "validation", data, progress)
    subsets_stage(folder, SubsetSettings(labels=3, subsets=2, images=40), "validation", data, progress)
    report_stage(folder, lambda: data)
    return folder


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    """The page."""
    return (run / "report/report.html").read_text("utf-8")


def test_page_loads_nothing(html: str) -> None:
    """No script and no request: every figure is inside, and thumbnails of errors are."""
    parser = Requests()
    parser.feed(html)
    assert parser.loaded == []
    assert 'src="data:image/png;base64,' in html
    assert not re.search(r"@import|url\((?!#)", html)


def test_every_figure_is_in_the_page_and_in_a_file_that_parses(run: Path, html: str) -> None:
    """Nine figures of a run on which everything was tried."""
    files = sorted(path.stem for path in (run / "report").glob("*.svg"))
    expected = {
        "training",
        "encoders",
        "matrices",
        "histograms",
        "expertise",
        "sharpness",
        "shares",
        "labels",
        "subsets",
    }
    assert set(files) == expected
    assert html.count("<svg") == len(expected)
    for name in files:
        assert ElementTree.parse(run / f"report/{name}.svg").getroot().tag.endswith("svg")
        with Image.open(run / f"report/{name}.png") as image:
            assert min(image.size) > 300


def test_page_has_every_verdict(run: Path, html: str) -> None:
    """How ANDC does against other masks, then each verdict with its numbers, as in the record, after the model card."""
    record = json.loads((run / "report/report.json").read_text("utf-8"))
    assert [(other["share"], other["mask_by"]) for other in record["outcomes"]] == [(0.5, "random"), (0.1, "random")]
    assert all(f">{other['outcome']}</td>" in html for other in record["outcomes"])
    assert len(record["verdicts"]) == 4
    places = [html.index(mark) for mark in ('class="glance"', 'id="labels"', 'id="knowledge"', 'class="headline"')]
    assert [*places, html.index(record["verdicts"][0]["claim"])] == sorted(
        [*places, html.index(record["verdicts"][0]["claim"])]
    )
    for verdict in record["verdicts"]:
        assert verdict["claim"] in html
        assert f">{verdict['finding']}<" in html
        assert all(f"{name} {finding}" in html for name, finding in verdict["controls"].items())
    assert "<code>random</code> masks" in html
    assert "`" not in html
    assert re.search(r"their clusters: node \d+: {\d", html)
    assert "1,078 training, 359 validation, 360 test images" in html


def test_same_run_gives_the_same_page(run: Path, html: str) -> None:
    """Nothing in it depends on the time or the machine."""
    assert not report_stage(run, no_data)[1]
    (run / "report/report.html").unlink()
    assert report_stage(run, no_data)[1]
    assert (run / "report/report.html").read_text("utf-8") == html


def test_report_of_a_run_without_studies_states_that_nothing_was_compared(run: Path, tmp_path: Path) -> None:
    """The page is written, and the claim is not tested."""
    alone = Path(shutil.copytree(run, tmp_path / "run"))
    for name in (COMPARISON, SUBSETS):
        (alone / name).unlink()
    path, done = report_stage(alone, no_data)
    assert done
    html = path.read_text("utf-8")
    [line] = [line for line in html.splitlines() if "Not tested: " in line]
    assert line.startswith('<p class="absent">')
    assert "<code>exporter compare</code>" in line
    assert ">not tested<" not in html
    assert "headline" not in html.partition("</style>")[2]


def test_record_without_figures_of_errors_still_has_a_page() -> None:
    """Records of earlier releases: a grey line stands in their place."""
    record = json.loads((RESULTS / "digits/study.json").read_text("utf-8"))
    del record["validation"], record["controls"]
    html = page(record, [])
    assert '<p class="absent">Errors: the pruned model was not run on the validation images.' in html
    assert 'class="glance"' not in html
    assert "<h1>digits</h1>" in html


def test_page_of_a_bundle_has_its_name_its_test_accuracy_and_its_speed(run: Path, html: str, bundle: Path) -> None:
    """All else is as on the run's own page, whose figures are not drawn again."""
    manifest = read_manifest(bundle)
    manifest.name = "small"
    for path in (run / "report").glob("*.svg"):
        path.write_text(f"<svg>{path.stem}</svg>")
    content = bundle_page(run / "report", manifest)
    assert "<h1>small</h1>" in content
    assert "<title>small: model card</title>" in content
    assert f"{100 * manifest.metrics.pruned_accuracy:.2f} %" in content
    assert "<svg>sharpness</svg>" in content
    assert content.count("pruned, openvino f32") == 3
    assert manifest.bench.machine.processor in content
    assert "Speed: not measured for this page" in html
    assert "Speed: not measured" not in content


def test_figure_that_is_gone_is_drawn_again(run: Path, bundle: Path, tmp_path: Path) -> None:
    """From the record."""
    report = Path(shutil.copytree(run / "report", tmp_path / "report"))
    (report / "training.svg").unlink()
    assert "training loss (augmented images)" in bundle_page(report, read_manifest(bundle))


def many_labels(record: dict[str, Any], labels: int) -> dict[str, Any]:
    """A record of a model of so many labels, of which each is taken for the next once."""
    names = [f"<label & {number}>" for number in range(labels)]
    validation = {
        **record["validation"],
        "label_names": names,
        "images": 2 * labels,
        "models": {name: {**model, "correct": labels} for name, model in record["validation"]["models"].items()},
        "images_K": [2] * labels,
        "predicted_K": [2] * labels,
        "correct_K": [1] * labels,
        "mistakes": [[label, (label + 1) % labels, 1] for label in range(labels)],
    }
    return {**record, "validation": validation, "label_names": names}


def test_many_labels_have_a_table_of_pairs_and_a_figure(run: Path) -> None:
    """In the place of a matrix that no page has room for; names are escaped."""
    record = many_labels(json.loads((run / "report/report.json").read_text("utf-8")), 40)
    [picture] = [picture for picture in pictures(record) if picture.section == "errors"]
    html = page(record, [(picture, svg(picture.draw()))])
    assert "Labels that are confused most often" in html
    assert 'class="matrix"' not in html
    assert "&lt;label &amp; 7&gt;" in html
    assert "<label" not in html
    few = many_labels(record, 12)
    assert not [picture for picture in pictures(few) if picture.section == "errors"]
    assert 'class="matrix"' in page(few, [])


def test_what_is_wide_scrolls_by_itself(html: str) -> None:
    """Every table and every figure is in a region that scrolls and that a keyboard reaches."""
    body = html.partition("<body>")[2]
    for piece in re.split(r'<div class="scroll[^>]*tabindex="0" role="region" aria-label="[^"]+">', body)[1:]:
        assert piece.lstrip().startswith(("<table", "<svg"))
    assert len(re.findall(r"<table|<svg", body)) == body.count('<div class="scroll')


def test_run_that_was_not_measured_says_what_to_do(built: Path, tmp_path: Path) -> None:
    """The error names the command of the missing stage."""
    folder = Path(shutil.copytree(built / "run", tmp_path / "run"))
    (folder / "findings.json").unlink()
    with pytest.raises(RunError, match="Run `exporter measure` first"):
        report_stage(folder, no_data)


def test_changes_of_labels_add_up_to_the_change_of_accuracy(run: Path) -> None:
    """Weighted with the labels' images, they are the difference of the two models."""
    data, compared = load(DatasetSettings("digits")), run_comparison(run)
    labels_N = split_images(data, "validation").labels_N
    changes = label_changes(compared, labels_N, len(data.label_names), 0.1)
    counts = torch.bincount(labels_N).tolist()
    total = sum(change * count for change, count in zip(changes, counts, strict=True)) / len(labels_N)
    [row] = [row for row in compared["results"] if (row["mask_by"], row["share"]) == ("andc", 0.1)]
    assert total == pytest.approx(row["to_dense"]["mean"])


def test_examples_are_nodes_that_recognise_labels() -> None:
    """Examples have clusters; silent nodes are passed over."""
    active_KN = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).double()
    examples = example_nodes(NodeMeasurement(active_KN, active_KN, 1, 2))
    assert {str(example["clusters"]) for example in examples} <= {"[[0]]", "[[0, 1]]"}
    assert len(examples) == 3
    assert all(max(example["label_means_K"]) > 0 for example in examples)


def test_layer_that_recognises_nothing_has_no_examples() -> None:
    """The list of examples is empty, and the page has no figure of them."""
    nothing_KN = torch.zeros(3, 4).double()
    assert example_nodes(NodeMeasurement(nothing_KN, nothing_KN, 1, 2)) == []
