"""Results: equal, short in a prompt, and as plain values, tables, pages and figures."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from explained import LABELS, MODEL, SCORES, classification, explanation, mapped
from headwise import Classification, Explanation, Timings

WEIGHTS = ("above_mean", "share", "effect")


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
    """Heads and all others together, by what they give to the label beyond the mean label; what was removed is none."""
    parts = explanation().parts(0)
    names = ["encoder 0 feed-forward", "encoder 0 head 1", "encoder 0 head 0", "embedding"]
    assert [part.name for part in parts[:4]] == names
    assert [part.above_mean for part in parts[:4]] == [3.0, -1.0, 0.5, 0.5]
    assert sum(part.contribution for part in parts) == SCORES[0].logit
    assert sum(part.above_mean for part in parts) == SCORES[0].logit  # the means here add up to zero
    assert {part.kind for part in parts} == {"head", "feed-forward", "embedding", "biases"}
    assert len(parts) == 3 + 4


def test_shares_are_of_the_logit_above_the_mean() -> None:
    """They add up to one where the label is above the mean label; a label below it has none."""
    plain = explanation()
    heads_R = plain.mean_heads_R + np.array([1.0, 0.0, 0.0, 0.0], np.float32)  # so that the means add up to 1
    parts = replace(plain, mean_heads_R=heads_R).parts(0)
    assert sum(part.share for part in parts) == pytest.approx(1)
    below = (replace(SCORES[0], logit=0.5), SCORES[1])
    assert all(np.isnan(part.share) for part in replace(plain, targets=below).parts(0))


def test_means_that_a_server_does_not_say_leave_the_contributions() -> None:
    """Of an older release: the order and the sizes are those of the contributions."""
    plain = explanation()
    unknown = dict.fromkeys(plain.other_parts, float("nan"))
    older = replace(plain, mean_heads_R=np.full(4, np.nan, np.float32), mean_other_parts=unknown)
    parts = older.parts(0)
    assert [part.name for part in parts[:2]] == ["encoder 0 feed-forward", "encoder 0 head 1"]
    assert all(part.weight == part.contribution for part in parts)
    assert "logit" in Tags(older._repr_html_()).text


def test_contrast_splits_the_difference_of_two_logits() -> None:
    """Every part less what it gives to the other label; maps and falls alike."""
    result = mapped()
    parts = result.contrast(0, 1)
    assert sum(part.contribution for part in parts) == SCORES[0].logit - SCORES[1].logit
    assert sum(part.share for part in parts) == pytest.approx(1)
    heads = {part.name: part for part in parts}
    assert heads["encoder 1 head 1"].contribution == -0.75
    assert heads["encoder 1 head 1"].effect == -2.0
    for part in parts:
        if part.map_YX is not None:
            assert float(part.map_YX.sum()) == pytest.approx(part.contribution, abs=1e-6)
    assert all(part.contribution == 0 for part in result.contrast(0, 0))


def test_parts_have_maps_and_falls_where_they_were_asked_for() -> None:
    """Each map adds up to the contribution; biases read no token, and parts that are no heads are not removed."""
    parts = {part.name: part for part in mapped().parts(1)}
    for name, part in parts.items():
        assert (part.map_YX is None) == (name == "biases")
        assert np.isnan(part.effect) == (part.kind != "head")
        if part.map_YX is not None:
            assert part.map_YX.shape == (2, 3)
            assert float(part.map_YX.sum()) == pytest.approx(part.contribution, abs=1e-6)
    assert all(part.map_YX is None and np.isnan(part.effect) for part in explanation().parts(1))


def test_silent_heads_give_other_scores() -> None:
    """Of the targets, with probabilities over all labels; without silent heads that is an error."""
    first, second = mapped().silenced()
    assert (first.label, first.logit, second.logit) == (SCORES[0].label, 1.0, 3.0)
    weights_K = np.exp([1.0, 3.0, 0.0, 0.0, 0.0])
    assert second.probability == pytest.approx(weights_K[1] / weights_K.sum())
    with pytest.raises(ValueError, match=r"expected an explanation that was asked for with silenced_heads"):
        explanation().silenced()


def test_results_are_plain_values() -> None:
    """That JSON takes, with names that have no shape suffix; nan is null."""
    values = json.loads(json.dumps(explanation().to_dict(), allow_nan=False))
    assert values["logits"] == [3.0, 2.0, 1.0, 0.0, -1.0]
    assert values["heads"][2]["fields"] == [None] * 5
    assert values["heads"][1]["contributions"] == [-2.0, 0.5]
    assert "maps" not in values["heads"][1]
    more = json.loads(json.dumps(mapped().to_dict(), allow_nan=False))
    assert (more["heads"][1]["effects"], more["heads"][2]["effects"]) == ([-1.0, 0.0], [None, None])
    assert np.shape(more["heads"][0]["maps"]) == (2, 2, 3)
    assert more["token_grid"]["columns"] == 3
    assert "picture" not in more
    lily = {"index": 1, "label": "tiger lily", "logit": 2.0, "probability": 0.25}
    assert classification().to_dict()["top"][1] == lily


def test_results_are_tables_of_pandas() -> None:
    """Labels by probability; parts by target."""
    assert list(classification().to_pandas().index) == list(LABELS)
    frame = explanation().to_pandas()
    sums = frame.groupby("target")["contribution"].sum()
    assert [sums[score.label] for score in SCORES[:2]] == pytest.approx([3.0, 2.0])
    assert set(frame.columns) == {"target", "part", "kind", "encoder", "head", "contribution", *WEIGHTS}


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Opened."""
        if tag not in ("img", "br"):
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
    assert Tags(page).text.count("-1.00") == 2  # in the list, and in the grid
    assert "iris, iris, iris, iris and 2 more" in page


def test_page_shows_the_picture_and_where_contributions_come_from() -> None:
    """A cell for each token of the largest parts, with what maps are and are not."""
    page = mapped()._repr_html_()
    assert Tags(page).open == []
    assert 'src="data:image/png;base64,AAAA"' in page
    assert page.count('title="+0.500"') >= 6  # the largest part is 3.0 over six tokens
    assert "not the region that matters" in page


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
