"""Log lines on stderr: text for people, one JSON object per line for programs.

Nothing here takes secrets out: the rule that no code, output, file content or secret is logged is
kept where our lines are written. Libraries keep no such rule (a database driver logs every
statement with its values, an HTTP client every address), so from them only warnings pass.
"""

import json
import logging
import sys
from datetime import UTC, datetime

_OURS = (
    "ci_tools",
    "ci_tools_assistants",
    "ci_tools_jupyter",
    "ci_tools_kernels",
    "ci_tools_mcp",
    "ci_tools_server",
)


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


def _is_news(record: logging.LogRecord) -> bool:
    """Tell whether it is not only a client that left; the mcp package takes that for an error."""
    # By name: importing starlette would keep the first line waiting.
    return not (record.exc_info and type(record.exc_info[1]).__name__ == "ClientDisconnect")


def configure_logs(level: str) -> None:
    """Send our log records of `level` (debug, info, warning, error) and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if sys.stderr.isatty():
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    else:
        handler.setFormatter(JsonFormatter())
    handler.addFilter(_is_news)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
