"""What a drain waits for, without a server."""

import asyncio

from headwise_server.in_flight import InFlight


async def test_drain_returns_once_every_call_is_done() -> None:
    """However a call ends: with its answer, with an error or cancelled."""
    in_flight, ends = InFlight(), [asyncio.get_running_loop().create_future() for _ in range(3)]
    calls = [asyncio.ensure_future(asyncio.wait_for(end, None)) for end in ends]
    for call in calls:
        in_flight.add(call)
    drained = asyncio.create_task(in_flight.drain())
    ends[0].set_result(None)
    ends[1].set_exception(ValueError())
    await asyncio.wait(calls[:2])
    assert not drained.done()
    calls[2].cancel()
    await drained
    await asyncio.gather(*calls, return_exceptions=True)


async def test_drain_does_not_wait_for_calls_that_come_later() -> None:
    """They are refused; under load there would always be one."""
    in_flight = InFlight()
    first, later = (asyncio.get_running_loop().create_future() for _ in range(2))
    in_flight.add(asyncio.ensure_future(asyncio.wait_for(first, None)))
    drained = asyncio.create_task(in_flight.drain())
    await asyncio.sleep(0)
    late = asyncio.ensure_future(asyncio.wait_for(later, None))
    in_flight.add(late)
    first.set_result(None)
    await drained
    assert in_flight.draining
    later.set_result(None)
    await late


async def test_drain_without_calls_returns_at_once() -> None:
    """Nothing to wait for, also after calls."""
    in_flight = InFlight()
    await in_flight.drain()
    call = asyncio.create_task(asyncio.sleep(0))
    in_flight.add(call)
    await call
    await in_flight.drain()


async def test_streams_receive_no_more_requests_while_the_server_drains() -> None:
    """Those that are open, and one that is opened late."""
    in_flight = InFlight()
    receivers = [asyncio.create_task(asyncio.sleep(1e6)) for _ in range(2)]
    in_flight.add_receiver(receivers[0])
    await in_flight.drain()
    in_flight.add_receiver(receivers[1])
    await asyncio.wait(receivers)
    assert all(receiver.cancelled() for receiver in receivers)
