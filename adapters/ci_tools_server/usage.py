"""The report of `ci-tools usage`: how many sessions of the code interpreter there were."""

from datetime import UTC, datetime
from typing import Any

from ci_tools import SessionService
from ci_tools_assistants.runs import usage
from ci_tools_assistants.storage.records import open_records


async def measure(
    service: SessionService,
    principal: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> dict[str, Any]:
    """Count a principal's sessions that began in a time, in all, by thread and by day (UTC)."""
    records = await open_records(service.database)
    first = 0 if since is None else int(since.replace(tzinfo=UTC).timestamp())
    end = None if until is None else int(until.replace(tzinfo=UTC).timestamp())
    sessions = await records.read(
        lambda conn: usage.list_sessions(conn, principal=principal, since=first, until=end),
        bulk=True,
    )
    return usage.summarise(principal, sessions)


def to_text(report: dict[str, Any]) -> str:
    """Return the report for people."""
    count, threads = report["code_interpreter_sessions"], report["threads"]
    lines = [f"{report['principal']}: {count} code interpreter sessions in {len(threads)} threads"]
    lines += [f"{day}  {number}" for day, number in report["days"].items()]
    return "\n".join(lines)
