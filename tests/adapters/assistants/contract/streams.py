"""A stream of server-sent events as a list, and the rules that every stream of a run keeps."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Event: TypeAlias = tuple[str, Any]
"""The name of an event and its data; the data of `done` is the text `[DONE]`."""

ENDS = frozenset(
    f"thread.run.{status}"
    for status in ("completed", "incomplete", "failed", "cancelled", "expired", "requires_action")
)
"""What the last event of a run in its stream may be."""

STEP_ENDS = frozenset(
    f"thread.run.step.{status}" for status in ("completed", "failed", "cancelled", "expired")
)

MESSAGE_ENDS = frozenset({"thread.message.completed", "thread.message.incomplete"})


def parse(text: str) -> list[Event]:
    """Return the events of a whole stream; comments, which keep it alive, are left out.

    Raises:
        ValueError: It is not framed as clients expect it.
    """
    events: list[Event] = []
    for frame in text.split("\n\n"):
        lines = [line for line in frame.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        if len(lines) != 2 or not lines[0].startswith("event: "):
            raise ValueError(f"not an event line and a data line: {frame!r}")
        if not lines[1].startswith("data: "):
            raise ValueError(f"no data line: {frame!r}")
        data = lines[1].removeprefix("data: ")
        events.append((lines[0].removeprefix("event: "), _decode(data)))
    return events


def _decode(data: str) -> Any:
    return data if data == "[DONE]" else json.loads(data)


@dataclass
class _Followed:
    """What a stream has said so far."""

    problems: list[str] = field(default_factory=list)
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended_steps: set[str] = field(default_factory=set)
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended_messages: set[str] = field(default_factory=set)
    run_names: list[str] = field(default_factory=list)


def check_order(events: Sequence[Event]) -> list[str]:
    """Return which rules of the order a complete stream breaks.

    They are those that the stream readers of the official clients need, and the order that the
    reference shows.
    """
    names = [name for name, _ in events]
    seen = _Followed()
    if names[-1:] != ["done"] or names.count("done") != 1:
        seen.problems.append(f"does not end with one `done`: {names[-3:]}")
    for name, data in events:
        if name.startswith("thread.run.step."):
            _follow_step(seen, name, data)
        elif name.startswith("thread.message."):
            _follow_message(seen, name, data)
        elif name.startswith("thread.run."):
            seen.run_names.append(name)
        elif name == "thread.created" and names.index(name) != 0:
            seen.problems.append("thread.created is not the first event")
    return seen.problems + _check_run(seen, names) + _check_rest(seen)


def _follow_step(seen: _Followed, name: str, data: dict[str, Any]) -> None:
    id = data["id"]
    if name == "thread.run.step.created":
        if id in seen.steps:
            seen.problems.append(f"{id} was created twice")
        if data["status"] != "in_progress":
            seen.problems.append(f"{id} was created {data['status']}")
        seen.steps[id] = data
    elif id not in seen.steps and name not in STEP_ENDS:
        # A step that was begun in an earlier stream ends in that of its tool outputs.
        seen.problems.append(f"{name} of {id}, which was not created")
    if id in seen.ended_steps:
        seen.problems.append(f"{name} of {id}, which has ended")
    if name in STEP_ENDS:
        seen.ended_steps.add(id)
        _compare_status(seen, name, data)


def _follow_message(seen: _Followed, name: str, data: dict[str, Any]) -> None:
    id = data["id"]
    if name == "thread.message.created":
        if set(seen.messages) - seen.ended_messages:
            seen.problems.append(f"{id} begins before another message has ended")
        if id in seen.messages or data["content"] != []:
            seen.problems.append(f"{id} was created twice, or with content")
        seen.messages[id] = {}
    elif id not in seen.messages:
        seen.problems.append(f"{name} of {id}, which was not created")
    elif id in seen.ended_messages:
        seen.problems.append(f"{name} of {id}, which has ended")
    if name == "thread.message.delta":
        _follow_content(seen, id, data["delta"].get("content", []))
    if name in MESSAGE_ENDS:
        seen.ended_messages.add(id)
        _compare_status(seen, name, data)
        if any("index" in part for part in data["content"]):
            seen.problems.append(f"{id} has an index in its final content")


def _follow_content(seen: _Followed, id: str, parts: Sequence[dict[str, Any]]) -> None:
    known = seen.messages.setdefault(id, {})
    for part in parts:
        index = part["index"]
        if index not in known and index != len(known):
            seen.problems.append(f"{id}: content {index} comes after {sorted(known)}")
        if index not in known and part["type"] == "text":
            if part["text"].get("annotations") != []:
                seen.problems.append(f"{id}: the first delta of a text has no empty annotations")
        known[index] = part["type"]


def _compare_status(seen: _Followed, name: str, data: dict[str, Any]) -> None:
    if data["status"] != name.rsplit(".", 1)[1]:
        seen.problems.append(f"{name} with the status {data['status']}")


def _check_run(seen: _Followed, names: Sequence[str]) -> list[str]:
    problems = []
    runs = seen.run_names
    if "thread.run.created" in runs:
        start = ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]
        if runs[:3] != start[: len(runs)]:
            problems.append(f"the run begins with {runs[:3]}")
    if not runs or runs[-1] not in ENDS:
        problems.append(f"the run ends with {runs[-1:]}")
    elif [name for name in names if name not in ("error", "done")][-1] != runs[-1]:
        problems.append(f"{runs[-1]} is not the last event before `done`: {names[-4:]}")
    return problems


def _check_rest(seen: _Followed) -> list[str]:
    problems = [f"{id} has not ended" for id in set(seen.messages) - seen.ended_messages]
    if seen.run_names[-1:] != ["thread.run.requires_action"]:
        problems += [f"{id} has not ended" for id in set(seen.steps) - seen.ended_steps]
    return problems
