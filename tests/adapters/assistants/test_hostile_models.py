"""What a model may be talked into writing must not hold up the service."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci_tools.models import new_id
from ci_tools_assistants.models.arguments import DEEPEST, MOST, load_object
from ci_tools_assistants.models.code_argument import find_code
from ci_tools_assistants.runs import annotations
from tests.adapters.assistants.puppet import WEATHER, open_stage

LONG = "a" * 195 + ".csv"


@pytest.mark.parametrize(
    "text",
    [
        "sandbox:/mnt/data/ " * 10_000,
        ("sandbox:/mnt/data/ " + r"% \!" * 120) * 400,
        ("sandbox:/mnt/data/" + "a" * 193 + r"% \!" * 120) * 400,
    ],
)
def test_each_link_to_nothing_is_read_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    readings = annotations._readings

    def count(written: str) -> Iterator[annotations._Reading]:
        read.append(written)
        return readings(written)

    monkeypatch.setattr(annotations, "_readings", count)

    assert annotations.annotate(text, {LONG: "file-1"}) == []
    assert len(read) <= text.count("sandbox:")


def test_names_are_found_behind_links_that_name_nothing() -> None:
    link = f"sandbox:/mnt/data/{LONG}"
    text = f"sandbox:/mnt/data/ sandbox:/mnt/data/b.csv {link}."

    assert [one["text"] for one in annotations.annotate(text, {LONG: "file-1"})] == [link]


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def test_arguments_that_go_deep_are_no_arguments() -> None:
    assert load_object(nested(DEEPEST)) is not None
    for depth in (DEEPEST + 1, 900, 100_000):
        assert load_object(nested(depth)) is None
        assert find_code(nested(depth)) is None
    assert load_object('{"a": ' + "[" * 5000) is None


def test_arguments_with_very_many_objects_are_no_arguments() -> None:
    assert load_object(json.dumps({"a": [[]] * (MOST - 1)})) is not None
    assert load_object(json.dumps({"a": [[]] * MOST})) is None
    assert load_object(json.dumps({"code": "[]" * MOST})) is not None


@pytest.mark.parametrize("depth", [300, 900, 5000])
async def test_a_thread_can_be_run_after_arguments_that_go_deep(tmp_path: Path, depth: int) -> None:
    ids = {"thread_id": new_id("thread_"), "assistant_id": new_id("asst_"), "created_at": 1}
    function = {"name": "weather", "arguments": nested(depth), "output": "1"}
    call = {"id": "call_1", "type": "function", "function": function}
    done = {"status": "completed", **ids}
    run = {"id": new_id("run_"), "object": "thread.run", "model": "m", **done}
    step = {
        "id": new_id("step_"),
        "object": "thread.run.step",
        "run_id": run["id"],
        "type": "tool_calls",
        "step_details": {"type": "tool_calls", "tool_calls": [call]},
        **done,
    }
    text = {"type": "text", "text": {"value": "x", "annotations": []}}
    message = {
        "id": new_id("msg_"),
        "object": "thread.message",
        "role": "assistant",
        "content": [text],
        "run_id": run["id"],
        **ids,
    }
    async with open_stage(tmp_path) as stage:
        lines = "\n".join(json.dumps(item) for item in (message, run, step))
        assert (await stage.http.post("/import", content=lines)).status_code == 200
        assistant = await stage.new_assistant(WEATHER)
        path = f"/threads/{ids['thread_id']}/runs"

        ended = await stage.ends(await stage.post(path, {"assistant_id": assistant["id"]}))

    assert ended["status"] == "completed"
