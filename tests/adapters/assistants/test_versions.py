from typing import Any

import pytest

from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.versions import from_v1, to_wire, to_wire_event

RUN: dict[str, Any] = {
    "object": "thread.run",
    "status": "completed",
    "tools": [{"type": "file_search"}, {"type": "code_interpreter"}],
    "tool_choice": "auto",
    "response_format": "auto",
    "parallel_tool_calls": True,
    "file_ids": ["file-1"],
}

STEP: dict[str, Any] = {
    "object": "thread.run.step",
    "step_details": {
        "type": "tool_calls",
        "tool_calls": [
            {"id": "call_1", "type": "code_interpreter", "code_interpreter": {"input": "1"}},
            {"id": "call_2", "type": "file_search", "file_search": {"results": []}},
            {"id": "call_3", "type": "function", "function": {"name": "f"}},
        ],
    },
}


def test_version_1_sees_the_files_of_a_run() -> None:
    assert "file_ids" not in to_wire(RUN, "v2")
    older = to_wire(RUN, "v1")
    assert older["file_ids"] == ["file-1"]
    assert older["tools"] == [{"type": "retrieval"}, {"type": "code_interpreter"}]
    assert "parallel_tool_calls" not in older


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        ("required", "auto"),
        ("none", "none"),
        ({"type": "file_search"}, {"type": "retrieval"}),
        ({"type": "code_interpreter"}, {"type": "code_interpreter"}),
    ],
)
def test_version_1_sees_tool_choices_it_knows(newer: object, older: object) -> None:
    assert to_wire({**RUN, "tool_choice": newer}, "v1")["tool_choice"] == older


def test_an_incomplete_run_is_completed_in_version_1() -> None:
    run = {**RUN, "status": "incomplete", "incomplete_details": {"reason": "x"}}

    older = to_wire(run, "v1")

    assert older["status"] == "completed"
    assert older["incomplete_details"] == {"reason": "x"}
    assert to_wire_event("thread.run.incomplete", "v1") == "thread.run.completed"
    assert to_wire_event("thread.run.incomplete", "v2") == "thread.run.incomplete"
    assert to_wire_event("thread.run.failed", "v1") == "thread.run.failed"


def test_a_json_schema_is_a_json_object_in_version_1() -> None:
    given = {"type": "json_schema", "json_schema": {"name": "x"}}

    older = to_wire({**RUN, "response_format": given}, "v1")

    assert older["response_format"] == {"type": "json_object"}


def test_a_search_of_files_is_a_retrieval_in_version_1() -> None:
    calls = to_wire(STEP, "v1")["step_details"]["tool_calls"]

    assert calls == [
        STEP["step_details"]["tool_calls"][0],
        {"id": "call_2", "type": "retrieval", "retrieval": {}},
        STEP["step_details"]["tool_calls"][2],
    ]
    assert to_wire(STEP, "v2") == STEP


def test_a_call_can_have_the_name_of_the_old_guide() -> None:
    call = to_wire(STEP, "v2", step_call_name="code")["step_details"]["tool_calls"][0]

    assert call == {"id": "call_1", "type": "code", "code": {"input": "1"}}


def test_deltas_are_seen_like_what_they_add_up_to() -> None:
    call = {"index": 0, "id": "call_1", "type": "code_interpreter", "code_interpreter": {}}
    details = {"type": "tool_calls", "tool_calls": [call]}
    delta = {"object": "thread.run.step.delta", "delta": {"step_details": details}}
    message = {
        "object": "thread.message.delta",
        "delta": {
            "content": [
                {"index": 0, "type": "image_file", "image_file": {"file_id": "f", "detail": "low"}}
            ]
        },
    }

    renamed = to_wire(delta, "v1", step_call_name="code")["delta"]["step_details"]["tool_calls"][0]
    older = to_wire(message, "v1")["delta"]["content"][0]

    assert renamed == {"index": 0, "id": "call_1", "type": "code", "code": {}}
    assert older == {"index": 0, "type": "image_file", "image_file": {"file_id": "f"}}


def test_a_step_without_calls_stays_as_it_is() -> None:
    details = {"type": "message_creation", "message_creation": {"message_id": "msg_1"}}
    step = {"object": "thread.run.step", "step_details": details}

    assert to_wire(step, "v1", step_call_name="code") == step


def test_version_1_has_quotes_in_citations_and_no_other_new_parts() -> None:
    citation = {"type": "file_citation", "text": "x", "file_citation": {"file_id": "f"}}
    message = {
        "object": "thread.message",
        "content": [
            {"type": "text", "text": {"value": "x", "annotations": [citation]}},
            {"type": "refusal", "refusal": "no"},
        ],
        "attachments": None,
    }

    older = to_wire(message, "v1")

    assert older["content"][0]["text"]["annotations"] == [
        {**citation, "file_citation": {"file_id": "f", "quote": ""}}
    ]
    assert older["content"][1] == {"type": "text", "text": {"value": "no", "annotations": []}}
    assert older["file_ids"] == []


@pytest.mark.parametrize(
    ("purpose", "seen"),
    [("vision", "assistants"), ("assistants_output", "assistants_output")],
)
def test_version_1_sees_purposes_it_knows(purpose: str, seen: str) -> None:
    file = {"object": "file", "purpose": purpose, "expires_at": 1}

    assert to_wire(file, "v1") == {"object": "file", "purpose": seen}
    assert to_wire(file, "v2") == file


def test_lists_are_seen_item_by_item() -> None:
    listed = {"object": "list", "data": [RUN], "has_more": False}

    assert to_wire(listed, "v1")["data"] == [to_wire(RUN, "v1")]


def test_bodies_of_runs_come_in() -> None:
    body = {
        "tools": [{"type": "retrieval"}, "nonsense"],
        "tool_choice": {"type": "retrieval"},
        "response_format": "none",
        "additional_messages": [{"role": "user", "content": "x", "file_ids": ["f"]}, 1],
    }

    newer = from_v1(body, "run")

    tools = [{"type": "code_interpreter"}, {"type": "file_search"}]
    assert newer == {
        "tools": [{"type": "file_search"}, "nonsense"],
        "tool_choice": {"type": "file_search"},
        "response_format": "auto",
        "additional_messages": [
            {"role": "user", "content": "x", "attachments": [{"file_id": "f", "tools": tools}]},
            1,
        ],
    }


def test_bodies_of_threads_in_runs_come_in() -> None:
    body: dict[str, Any] = {"thread": {"messages": [{"file_ids": []}]}, "tools": None}

    assert from_v1(body, "thread_run") == {"thread": {"messages": [{}]}, "tools": None}


@pytest.mark.parametrize("body", [None, [], "x", 1])
def test_what_is_no_object_stays_as_it_is(body: object) -> None:
    assert from_v1(body, "assistant") == body


def test_a_bad_list_of_files_is_named_with_its_message() -> None:
    with pytest.raises(ApiError) as caught:
        from_v1({"messages": [{}, {"file_ids": 1}]}, "thread")

    assert caught.value.param == "messages[1].file_ids"
