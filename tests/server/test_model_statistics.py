"""Counts and times of requests."""

import asyncio
from contextlib import suppress

import hypothesis.strategies as st
import pytest
from headwise_server.model_statistics import Duration, ModelStatistics, Statistics
from hypothesis import given


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.floats(0, 5), st.floats(0, 5))))
def test_every_request_is_a_success_or_a_failure(requests: list[tuple[bool, int, float, float]]) -> None:
    """Images and times of successes add up; a failure counts as that alone."""
    statistics = Statistics()
    for succeeds, images, queue_seconds, inference_seconds in requests:
        try:
            with statistics.request("digits", "1", "classify") as measured:
                measured.images = images
                measured.queue_seconds, measured.inference_seconds = queue_seconds, inference_seconds
                if not succeeds:
                    raise ValueError
        except ValueError:
            assert not succeeds
    model, successes = statistics.of("digits", "1", "classify"), [request for request in requests if request[0]]
    assert model.success.count == model.queue.count == model.inference.count == len(successes)
    assert model.fail.count == len(requests) - len(successes)
    assert model.images == sum(images for _, images, _, _ in successes)
    assert model.queue.nanoseconds == sum(round(queue * 1e9) for _, _, queue, _ in successes)
    assert model.inference.nanoseconds == sum(round(inference * 1e9) for _, _, _, inference in successes)
    assert (model.last_success > 0) == bool(successes)


def test_cancelled_request_is_a_failure() -> None:
    """And is cancelled all the same."""
    statistics = Statistics()
    with pytest.raises(asyncio.CancelledError), statistics.request("digits", "1", "classify"):
        raise asyncio.CancelledError
    assert statistics.of("digits", "1", "classify").fail.count == 1


def test_versions_and_graphs_are_counted_apart() -> None:
    """And one that nobody has asked has zeros, which asking does not change."""
    statistics = Statistics()
    with statistics.request("digits", "1", "classify"):
        pass
    assert statistics.of("digits", "2", "classify") == ModelStatistics()
    assert statistics.of("digits", "1", "classify").success.count == 1
    assert statistics.of("digits", "1", "explain") == ModelStatistics()
    assert Duration() == statistics.of("digits", "2", "classify").success


@given(st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9), st.booleans()), max_size=5), max_size=4))
def test_statistics_of_processes_add_up(processes: list[list[tuple[str, int, bool]]]) -> None:
    """Whoever adds those of the others to its own, as if one process had been asked everything."""
    each, whole = [Statistics() for _ in processes], Statistics()
    for own, requests in zip(each, processes, strict=True):
        for name, images, succeeds in requests:
            for statistics in (own, whole):
                with suppress(ValueError), statistics.request(name, "1", "classify") as measured:
                    measured.images = images
                    if not succeeds:
                        raise ValueError
    for own in each:
        added = own.with_others(other.text() for other in each if other is not own)
        for name in "ab":
            expected, together = whole.of(name, "1", "classify"), added.of(name, "1", "classify")
            assert together.images == expected.images
            assert (together.success.count, together.fail.count) == (expected.success.count, expected.fail.count)
