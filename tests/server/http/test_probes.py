"""What those who run the server see: metrics that count, and readiness that is gRPC's health."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import support
from grpc_health.v1 import health_pb2, health_pb2_grpc
from headwise import Client, InvalidRequest
from http_support import PNG, SECONDS, HttpServer, running_http_server, status_of

GRACE = ("--grace-seconds", str(10 * SECONDS))


def test_not_ready_until_models_are_loaded(repository: Path, tmp_path: Path) -> None:
    """The process answers, and says that it is not to be sent requests yet; those are refused."""
    (tmp_path / "load").touch()
    with running_http_server(repository, gates=tmp_path) as http:
        assert http.get("/healthz").json() == {"live": True}
        for path in ("/readyz", "/v2/health/ready"):
            assert (http.get(path).status_code, http.get(path).json()) == (503, {"ready": False})
        refused = http.classify()
        assert status_of(refused) == (503, "NOT_READY")
        assert int(refused.headers["retry-after"]) >= 1
        http.open("load")
        http.wait_until_ready()
        assert http.classify().status_code == 200


def test_not_ready_while_a_batch_hangs(repository: Path, tmp_path: Path) -> None:
    """As gRPC's health, which turns at the same moment."""
    with running_http_server(repository, "--stuck-seconds", "0.1", gates=tmp_path) as http:
        http.wait_until_ready()
        http.close("run")
        with ThreadPoolExecutor(1) as pool:
            stuck = pool.submit(http.classify)
            support.wait_until(lambda: http.get("/readyz").status_code == 503)
            with grpc.insecure_channel(http.running.address) as channel:
                reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
            assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
            http.open("run")
            assert stuck.result(SECONDS).status_code == 200
        http.wait_until_ready()


def test_drain_finishes_requests_of_both_ports_and_refuses_new_ones(repository: Path, tmp_path: Path) -> None:
    """What was in hand at SIGTERM is answered; what comes later gets 503 and when to try again; the probes answer."""
    with running_http_server(repository, *GRACE, gates=tmp_path) as http:
        http.wait_until_ready()
        http.close("run")
        with ThreadPoolExecutor(2) as pool, Client(http.running.address, timeout_seconds=SECONDS) as client:
            over_http, over_grpc = pool.submit(http.classify), pool.submit(client.classify, [PNG])
            support.wait_until(lambda: http.metrics()["headwise_calls_in_flight"] == 2)
            http.running.process.send_signal(signal.SIGTERM)
            support.wait_until(lambda: http.get("/readyz").status_code == 503)
            support.wait_until(lambda: any("draining" in line for line in http.running.log))
            refused = http.classify()
            assert status_of(refused) == (503, "NOT_READY")
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["connection"] == "close"
            assert http.get("/healthz").status_code == 200
            http.open("run")
            assert over_http.result(SECONDS).status_code == 200
            assert len(over_grpc.result(SECONDS)) == 1
        assert http.running.process.wait(SECONDS) == 0


def test_request_that_the_grace_time_does_not_suffice_for_is_answered(repository: Path, tmp_path: Path) -> None:
    """With 503 rather than a connection that breaks."""
    with running_http_server(repository, "--grace-seconds", "0.1", gates=tmp_path) as http:
        http.wait_until_ready()
        http.close("run")
        with ThreadPoolExecutor(1) as pool:
            stuck = pool.submit(http.classify)
            support.wait_until(lambda: http.metrics()["headwise_queue_images"] == 0)
            support.wait_until(lambda: http.metrics()["headwise_calls_in_flight"] == 1)
            http.running.process.send_signal(signal.SIGTERM)
            assert status_of(stuck.result(SECONDS)) == (503, "NOT_READY")
        assert http.running.process.wait(SECONDS) == 0


def test_metrics_count_what_was_done(repository: Path) -> None:
    """Calls of both ports by method and code, refusals by reason, images, batches, estimates and states of models."""
    with running_http_server(repository) as http, Client(http.running.address, timeout_seconds=SECONDS) as client:
        http.wait_until_ready()
        for _ in range(3):
            client.classify([PNG, PNG])
        client.explain([PNG])
        with pytest.raises(InvalidRequest):
            client.classify([b"no picture"])
        list(client.classify_stream([PNG, PNG]))
        http.classify()
        http.post("/v1/models/nobody-serves-this:classify", json={"images": []})
        http.get("/nobody/serves/this")
        counts = http.metrics()
    service = "headwise.v1.HeadwiseService"
    assert counts[f"headwise_requests_total OK Classify {service}"] == 3
    assert counts[f"headwise_requests_total INVALID_ARGUMENT Classify {service}"] == 1
    assert counts[f"headwise_requests_total OK Explain {service}"] == 1
    assert counts[f"headwise_requests_total OK ClassifyStream {service}"] == 1
    assert counts["headwise_requests_total 200 POST /v1/models/{name}:classify http"] == 1
    assert counts["headwise_requests_total 404 POST /v1/models/{name}:classify http"] == 1
    assert counts["headwise_refusals_total INVALID_ARGUMENT"] == 1
    assert counts["headwise_refusals_total MODEL_NOT_FOUND"] == 1
    assert counts["headwise_refusal_seconds_count INVALID_ARGUMENT"] == 1
    assert counts["headwise_batch_images_sum"] == 3 * 2 + 1 + 2 + 1
    assert counts["headwise_decode_seconds_count"] == counts["headwise_batch_images_sum"]
    assert counts["headwise_inference_seconds_count explain digits"] == 1
    assert counts["headwise_wasted_images_total"] == counts["headwise_abandoned_images_total"] == 0
    assert counts["headwise_model_state digits READY 1"] == 1
    for graph in ("classify", "explain"):
        assert 0 < counts[f"headwise_expected_seconds {graph} digits 1"] < SECONDS
    assert counts["headwise_memory_limit_bytes"] == 768 * 2**20
    assert not [name for name in counts if "nobody" in name]


def test_metrics_show_the_queue_and_the_memory_while_requests_wait(repository: Path, tmp_path: Path) -> None:
    """And nothing of it when they are answered."""
    with running_http_server(repository, "--streams", "1", gates=tmp_path) as http:
        http.wait_until_ready()
        http.close("run")
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(http.classify) for _ in range(3)]
            support.wait_until(lambda: http.metrics()["headwise_queue_images"] == 2)
            counts = http.metrics()
            assert counts["headwise_calls_in_flight"] == 3
            assert counts["headwise_memory_used_bytes"] >= 3 * len(PNG)
            assert counts["headwise_queue_seconds"] > 0
            http.open("run")
            assert [each.result(SECONDS).status_code for each in waiting] == [200] * 3
        counts = http.metrics()
        for name in ("calls_in_flight", "queue_images", "queue_seconds", "memory_used_bytes"):
            assert counts[f"headwise_{name}"] == 0


def test_metrics_are_asked_for_by_many_at_once(http: HttpServer) -> None:
    """While requests are answered."""
    barrier = threading.Barrier(8)

    def ask(number: int) -> int:
        barrier.wait()
        return (http.classify() if number % 2 else http.get("/metrics")).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {200}
