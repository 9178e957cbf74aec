"""Results: equal, short in a prompt, and as plain values, tables, pages and figures."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from headwise import Classification, Explanation, HeadCard, LabelScore, ServedModel, Timings

MODEL = ServedModel("flowers", "2", "ab" * 32, "onnxruntime", "f32")
TIMINGS = Timings(0.0, 0.001, 0.002)
LABELS = ("<b>rose</b>", "tiger lily", "a$_$b", "daisy", "iris")
SCORES = tuple(LabelScore(index, label, 3.0 - index, 0.5 / (index + 1)) for index, label in enumerate(LABELS))


def classification() -> Classification:
    """Of five labels."""
    logits_K = np.array([score.logit for score in SCORES], np.float32)
    return Classification(logits_K, np.full(5, 0.2, np.float32), SCORES, MODEL, TIMINGS)


def explanation() -> Explanation:
    """Of two targets, by two encoders of two heads, of which one was removed."""
    cards = tuple(
        HeadCard(encoder, head, (encoder, head) == (1, 0), ("iris",) * 6, 0.5, 0.3, 0.01, 100)
        for encoder in (0, 1)
        for head in (0, 1)
    )
    heads_RJ = np.array([[1.0, 0.0], [-2.0, 0.5], [0.0, 0.0], [0.25, 1.0]], np.float32)
    others = {"embedding": [0.5, 0.0], "encoders.0.feed_forward": [3.0, 0.0], "encoders.1.feed_forward": [0.0, 0.0]}
    other_parts = {name: np.array(values, np.float32) for name, values in {**others, "biases": [0.25, 0.5]}.items()}
    fields_RK = np.zeros((4, 5), np.float32)
    fields_RK[2] = np.nan
    common = (1e-7, 1e-4, MODEL, TIMINGS)
    logits_K = classification().logits_K
    return Explanation(logits_K, logits_K, SCORES[:2], heads_RJ, fields_RK, cards, other_parts, *common)


@pytest.mark.parametrize("make", [classification, explanation])
def test_results_are_equal_where_the_answers_are(make: Callable[[], Any]) -> None:
    """Times aside; arrays by their values, nan like nan."""
    result = make()
    assert result == make()
    assert result == replace(result, timings=Timings(9.0, 9.0, 9.0))
    assert result != replace(result, model=replace(MODEL, version="3"))
    assert result != replace(result, logits_K=result.logits_K + 1)
    assert result != 3


def test_result_is_short_in_a_prompt() -> None:
    """Three labels with their probabilities, and the model."""
    assert repr(classification()) == (
        "Classification(<b>rose</b> 50.0 %, tiger lily 25.0 %, a$_$b 16.7 %, 2 more; flowers 2)"
    )
    assert repr(explanation()) == "Explanation(<b>rose</b> 50.0 %, tiger lily 25.0 %; flowers 2)"


def test_parts_add_up_to_the_logit_the_largest_first() -> None:
    """Heads and all others together; what was removed is none."""
    parts = explanation().parts(0)
    assert [part.name for part in parts[:3]] == ["encoder 0 feed-forward", "encoder 0 head 1", "encoder 0 head 0"]
    assert sum(part.contribution for part in parts) == SCORES[0].logit
    assert {part.kind for part in parts} == {"head", "feed-forward", "embedding", "biases"}
    assert len(parts) == 3 + 4


def test_results_are_plain_values() -> None:
    """That JSON takes, with names that have no shape suffix; nan is null."""
    values = json.loads(json.dumps(explanation().to_dict(), allow_nan=False))
    assert values["logits"] == [3.0, 2.0, 1.0, 0.0, -1.0]
    assert values["heads"][2]["fields"] == [None] * 5
    assert values["heads"][1]["contributions"] == [-2.0, 0.5]
    lily = {"index": 1, "label": "tiger lily", "logit": 2.0, "probability": 0.25}
    assert classification().to_dict()["top"][1] == lily


def test_results_are_tables_of_pandas() -> None:
    """Labels by probability; parts by target."""
    assert list(classification().to_pandas().index) == list(LABELS)
    frame = explanation().to_pandas()
    sums = frame.groupby("target")["contribution"].sum()
    assert [sums[score.label] for score in SCORES[:2]] == pytest.approx([3.0, 2.0])
    assert set(frame.columns) == {"target", "part", "kind", "encoder", "head", "contribution"}


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opened."""
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Closed, the last one opened."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Shown."""
        self.text += data


@pytest.mark.parametrize("result", [classification(), explanation()])
def test_page_for_notebooks_is_whole_and_shows_labels_as_text(result: Classification | Explanation) -> None:
    """Every tag is closed, and what a label is called is no markup; nothing is loaded from anywhere."""
    page = result._repr_html_()
    tags = Tags(page)
    assert tags.open == []
    assert "<b>rose</b>" in tags.text
    assert not any(part in page for part in ("<script", "http", "src=", "url("))


def test_page_of_an_explanation_has_every_part_and_the_grid() -> None:
    """What was removed is an empty cell."""
    page = explanation()._repr_html_()
    assert "encoder 1 head 0, removed" in page
    assert Tags(page).text.count("-2.00") == 2  # in the list, and in the grid
    assert "iris, iris, iris, iris and 2 more" in page


@pytest.mark.parametrize("result", [classification(), explanation()])
def test_figure_is_drawn(result: Classification | Explanation, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With labels of any characters."""
    path = tmp_path_factory.mktemp("figure") / "figure.png"
    result.plot().savefig(path)
    assert path.stat().st_size > 1000


def test_figure_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that brings it."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"plot\(\) needs matplotlib: pip install 'headwise\[plot\]'"):
        classification().plot()
