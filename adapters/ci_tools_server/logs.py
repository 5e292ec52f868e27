"""Log lines on stderr: text for people, one JSON object per line for programs.

Nothing here filters: the rule that no code, output, file content or secret is logged is kept where
the lines are written. Libraries that log requests (with addresses) stay at `warning`.
"""

import json
import logging
import sys
from datetime import UTC, datetime

_CHATTY = ("httpx2", "httpcore2", "uvicorn.access", "mcp", "sse_starlette", "alembic", "asyncio")
"""Loggers that write a line per request, some of them with addresses in it."""


class JsonFormatter(logging.Formatter):
    """Format a record as one JSON object: time, level, logger, message, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logs(level: str) -> None:
    """Send log records of `level` (debug, info, warning, error) and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty():
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    else:
        handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logger = logging.getLogger(name)
        logger.setLevel(max(logging.WARNING, root.level))
