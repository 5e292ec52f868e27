"""What /metrics tells, in Prometheus form; no label holds anything that a user wrote."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ci_tools import RunStep

_STEP_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3600)
"""Upper bounds in seconds."""


class Metrics:
    """The counters of one app, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._sessions = self._gauge("sessions", "Sessions that exist, of all processes.")
        self._kernels = self._gauge("live_kernels", "Sessions that have a kernel.")
        self._bytes = self._gauge("stored_bytes", "Bytes of files, texts and workspaces.")
        self._unfinished = self._gauge("unfinished_steps", "Steps that wait or run here.")
        self._interpreter_sessions = self._gauge(
            "interpreter_sessions",
            "Sessions of the code interpreter of threads that were counted, of all processes.",
        )
        self._steps = Counter(
            "ci_tools_steps", "Run steps that ended here.", ["status"], registry=self._registry
        )
        self._step_seconds = Histogram(
            "ci_tools_step_seconds",
            "Seconds that run steps took from start to end.",
            buckets=_STEP_BUCKETS,
            registry=self._registry,
        )
        self._requests = Counter(
            "ci_tools_http_requests",
            "HTTP requests that were answered.",
            ["route", "method", "status"],
            registry=self._registry,
        )
        self._ticket_bytes = Counter(
            "ci_tools_ticket_bytes",
            "Bytes of files that went through tickets.",
            ["action"],
            registry=self._registry,
        )

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"ci_tools_{name}", text, registry=self._registry)

    def count_step(self, step: RunStep) -> None:
        """Count a step that has become final."""
        self._steps.labels(status=step.status.value).inc()
        if step.duration is not None:
            self._step_seconds.observe(step.duration)

    def count_request(self, *, route: str, method: str, status: int) -> None:
        """Count an answered request; `route` is a pattern, never the address that was asked."""
        self._requests.labels(route=route, method=method, status=str(status)).inc()

    def count_ticket_bytes(self, action: str, size: int) -> None:
        """Count the bytes of an upload or a download."""
        self._ticket_bytes.labels(action=action).inc(size)

    def to_text(
        self,
        *,
        sessions: int,
        kernels: int,
        stored_bytes: int,
        unfinished_steps: int,
        interpreter_sessions: int = 0,
    ) -> bytes:
        """Return everything in the text exposition format; the arguments are of this moment."""
        self._interpreter_sessions.set(interpreter_sessions)
        self._sessions.set(sessions)
        self._kernels.set(kernels)
        self._bytes.set(stored_bytes)
        self._unfinished.set(unfinished_steps)
        return generate_latest(self._registry)
