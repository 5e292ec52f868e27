"""OpenTelemetry traces: spans for HTTP requests and run steps, without code or file names.

They are sent when `OTEL_EXPORTER_OTLP_ENDPOINT` is set and the extra `otel` is installed; every
other OTEL variable means what OpenTelemetry says. Without them nothing is imported.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ci_tools import RunStep, StepStatus
from ci_tools.extras import install_command

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

logger = logging.getLogger(__name__)

_NANOSECONDS = 1_000_000_000


class Traces:
    """Where spans go; nowhere while tracing is not configured."""

    def __init__(self, tracer: "Tracer | None" = None) -> None:
        self._tracer = tracer

    @contextmanager
    def trace_request(self, *, route: str, method: str) -> Iterator[dict[str, int]]:
        """Span one HTTP request; put its `status` into the dict that is yielded."""
        outcome: dict[str, int] = {}
        if self._tracer is None:
            yield outcome
            return
        from opentelemetry.trace import SpanKind

        with self._tracer.start_as_current_span(
            f"{method} {route}",
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
        ) as span:
            yield outcome
            if "status" in outcome:
                span.set_attribute("http.response.status_code", outcome["status"])

    def trace_step(self, step: RunStep) -> None:
        """Span a step that has become final, with its own times."""
        if self._tracer is None or step.started_at is None or step.finished_at is None:
            return
        from opentelemetry.trace import Status, StatusCode

        span = self._tracer.start_span(
            "run_step",
            start_time=int(step.started_at * _NANOSECONDS),
            attributes={
                "ci_tools.session_id": step.session_id,
                "ci_tools.step_id": step.id,
                "ci_tools.status": step.status.value,
                "ci_tools.epoch": step.epoch,
            },
        )
        if step.error is not None:
            span.set_attribute("error.type", step.error.code)
        if step.status is not StepStatus.COMPLETED:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end_time=int(step.finished_at * _NANOSECONDS))


@contextmanager
def open_traces() -> Iterator[Traces]:
    """Start tracing as the environment says; what is left is sent at the end."""
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        yield Traces()
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        logger.warning(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but no traces are sent: %s",
            install_command("otel"),
        )
        yield Traces()
        return
    provider = TracerProvider(resource=Resource.create({"service.name": "ci-tools"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    # The mcp package traces its requests through the global provider.
    trace.set_tracer_provider(provider)
    try:
        yield Traces(provider.get_tracer("ci_tools"))
    finally:
        provider.shutdown()
