import logging
import sys
from pathlib import Path

import pytest

from ci_tools import Settings, open_service
from ci_tools.testing import FakeBackend
from ci_tools_server.traces import Traces, open_traces

trace = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")


async def test_steps_are_spans_with_ids_and_no_code(settings: Settings, tmp_path: Path) -> None:
    exporter = memory.InMemorySpanExporter()
    provider = trace.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    traces = Traces(provider.get_tracer("test"))

    async with open_service(settings, backend=FakeBackend(tmp_path / "folders")) as service:
        service.on_finished(traces.trace_step)
        session = await service.create_session()
        step = await service.run_code(session.id, "raise ValueError('hidden')")

    (span,) = exporter.get_finished_spans()
    assert span.name == "run_step"
    assert span.attributes["ci_tools.step_id"] == step.id
    assert span.attributes["error.type"] == "code_error"
    assert span.end_time - span.start_time == pytest.approx((step.duration or 0) * 1e9, abs=1e6)
    assert "hidden" not in span.to_json()


def test_requests_are_spans_by_route() -> None:
    exporter = memory.InMemorySpanExporter()
    provider = trace.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))

    with Traces(provider.get_tracer("test")).trace_request(
        route="/tickets/{secret}", method="PUT"
    ) as outcome:
        outcome["status"] = 201

    (span,) = exporter.get_finished_spans()
    assert span.name == "PUT /tickets/{secret}"
    assert span.attributes["http.response.status_code"] == 201


def test_nothing_is_traced_unless_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)

    with open_traces() as traces, traces.trace_request(route="/", method="GET") as outcome:
        outcome["status"] = 200


def test_without_the_extra_a_warning_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with caplog.at_level(logging.WARNING), open_traces():
        pass

    assert "[otel]'" in caplog.text
