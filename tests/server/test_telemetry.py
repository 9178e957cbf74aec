"""Metrics: counted where things happen, read where they can be read, under labels that no request makes up."""

from collections.abc import Callable

import pytest
from headwise_server.telemetry import Telemetry, merged
from prometheus_client.parser import text_string_to_metric_families


def samples(telemetry: Telemetry) -> dict[str, float]:
    """Every number of the exposition, by name and labels."""
    text = telemetry.exposition().decode()
    return {
        ",".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def telemetry() -> Telemetry:
    """That of a server in which nothing has happened."""
    return Telemetry()


def test_counts_of_two_servers_are_apart(telemetry: Telemetry) -> None:
    """There is no global registry behind them."""
    telemetry.refusals.labels("OVERLOADED").inc()
    assert samples(telemetry)["headwise_refusals_total,OVERLOADED"] == 1
    assert "headwise_refusals_total,OVERLOADED" not in samples(Telemetry())


def test_gauge_is_read_whenever_the_metrics_are_asked_for(telemetry: Telemetry) -> None:
    """It says what is, not what was when it was added."""
    waiting = [3, 5]
    telemetry.read("headwise_queue_images", "Images that wait.", lambda: len(waiting))
    assert samples(telemetry)["headwise_queue_images"] == 2
    waiting.clear()
    assert samples(telemetry)["headwise_queue_images"] == 0


def test_gauge_forgets_what_is_gone(telemetry: Telemetry) -> None:
    """A version that was retired has no line any more."""
    states = {("digits", "1"): 1.0, ("digits", "2"): 1.0}
    telemetry.read("headwise_model_state", "States.", states.items, ("model", "version"))
    assert samples(telemetry).keys() >= {"headwise_model_state,digits,1", "headwise_model_state,digits,2"}
    del states["digits", "1"]
    assert "headwise_model_state,digits,1" not in samples(telemetry)


@pytest.mark.parametrize("name", ["headwise_wasted_images_total", "headwise_abandoned_images_total"])
def test_counters_with_a_target_of_zero_say_zero(telemetry: Telemetry, name: str) -> None:
    """An alert on them sees a number before the first one is counted."""
    assert samples(telemetry)[name] == 0


def test_no_gauge_twice(telemetry: Telemetry) -> None:
    """A second one of the same name is a mistake, and says so."""
    read: Callable[[], float] = lambda: 0.0  # noqa: E731  # a function of one line
    telemetry.read("headwise_calls_in_flight", "Calls.", read)
    with pytest.raises(ValueError, match="Duplicated"):
        telemetry.read("headwise_calls_in_flight", "Calls.", read)


def test_merged_metrics_have_every_number_of_every_worker(telemetry: Telemetry) -> None:
    """Under its label, each family once, with what it is."""
    other = Telemetry()
    telemetry.refusals.labels("OVERLOADED").inc(3)
    other.refusals.labels("OVERLOADED").inc(4)
    other.batch_images.observe(8)
    for one in (telemetry, other):
        one.read("headwise_queue_images", "Images that wait.", lambda: 5)
    text = merged({str(number): one.exposition().decode() for number, one in enumerate((telemetry, other))}).decode()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(set(names)) == len(names)
    types = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert types == {family.name: family.type for family in text_string_to_metric_families(other.exposition().decode())}
    values = {
        (sample.labels.pop("worker"), sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["0", "headwise_refusals_total", "OVERLOADED"] == 3
    assert values["1", "headwise_refusals_total", "OVERLOADED"] == 4
    assert values["1", "headwise_batch_images_bucket", "8.0"] == 1
    assert [values[worker, "headwise_queue_images"] for worker in "01"] == [5, 5]
