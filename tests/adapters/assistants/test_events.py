import json

from ci_tools_assistants.errors import ApiError
from ci_tools_assistants.runs import events
from ci_tools_assistants.runs.events import Event, to_frame


def test_a_frame_is_a_name_a_line_of_json_and_an_empty_line() -> None:
    frame = to_frame(Event("thread.run.queued", {"id": "run_1", "usage": None}))

    assert frame == b'event: thread.run.queued\ndata: {"id":"run_1","usage":null}\n\n'


def test_no_character_of_a_text_can_break_a_frame() -> None:
    text = "a\nb\r\nc\u2028d\u0085e\x0bf \U0001f600 \ud83d"

    frame = to_frame(events.text_delta("msg_1", 0, text, first=False))

    assert len(frame.splitlines()) == 3
    assert len(frame.decode("ascii").splitlines()) == 3
    data = json.loads(frame.split(b"data: ")[1])
    assert data["delta"]["content"][0]["text"]["value"] == text


def test_an_event_is_named_by_the_state_of_its_object() -> None:
    thing = {"id": "x", "status": "cancelled"}

    names = [
        events.run_created(thing).name,
        events.run_moved(thing).name,
        events.step_created(thing).name,
        events.step_moved(thing).name,
        events.message_created(thing).name,
        events.message_moved({"status": "incomplete"}).name,
        events.thread_created(thing).name,
    ]

    assert names == [
        "thread.run.created",
        "thread.run.cancelled",
        "thread.run.step.created",
        "thread.run.step.cancelled",
        "thread.message.created",
        "thread.message.incomplete",
        "thread.created",
    ]


def test_the_first_text_has_annotations_and_later_ones_have_none() -> None:
    first = events.text_delta("msg_1", 0, "Hello", first=True)
    later = events.text_delta("msg_1", 0, " world", first=False)

    assert first == Event(
        "thread.message.delta",
        {
            "id": "msg_1",
            "object": "thread.message.delta",
            "delta": {
                "content": [
                    {"index": 0, "type": "text", "text": {"value": "Hello", "annotations": []}}
                ]
            },
        },
    )
    assert later.data["delta"]["content"] == [
        {"index": 0, "type": "text", "text": {"value": " world"}}
    ]


def test_an_annotation_has_an_index_of_its_own() -> None:
    annotation = {"type": "file_path", "text": "sandbox:/mnt/data/a", "file_path": {}}

    delta = events.annotation_delta("msg_1", 1, 2, annotation).data["delta"]

    assert delta["content"] == [
        {
            "index": 1,
            "type": "text",
            "text": {"value": "", "annotations": [{"index": 2, **annotation}]},
        }
    ]


def test_code_begins_empty_and_grows() -> None:
    shapes = [
        events.code_started("step_1", 0, "call_1"),
        events.code_delta("step_1", 0, "1+1"),
        events.logs_delta("step_1", 0, 0, "2"),
        events.image_delta("step_1", 0, 1, "file-1"),
    ]

    assert [shape.data["delta"]["step_details"]["tool_calls"] for shape in shapes] == [
        [
            {
                "index": 0,
                "id": "call_1",
                "type": "code_interpreter",
                "code_interpreter": {"input": "", "outputs": []},
            }
        ],
        [{"index": 0, "type": "code_interpreter", "code_interpreter": {"input": "1+1"}}],
        [
            {
                "index": 0,
                "type": "code_interpreter",
                "code_interpreter": {"outputs": [{"index": 0, "type": "logs", "logs": "2"}]},
            }
        ],
        [
            {
                "index": 0,
                "type": "code_interpreter",
                "code_interpreter": {
                    "outputs": [{"index": 1, "type": "image", "image": {"file_id": "file-1"}}]
                },
            }
        ],
    ]


def test_a_function_begins_with_its_name_and_no_output() -> None:
    shapes = [
        events.function_started("step_1", 1, "call_1", "weather"),
        events.arguments_delta("step_1", 1, '{"city"'),
    ]

    assert [shape.data["delta"]["step_details"] for shape in shapes] == [
        {
            "type": "tool_calls",
            "tool_calls": [
                {
                    "index": 1,
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": "", "output": None},
                }
            ],
        },
        {
            "type": "tool_calls",
            "tool_calls": [{"index": 1, "type": "function", "function": {"arguments": '{"city"'}}],
        },
    ]


def test_an_error_has_the_key_that_clients_look_for() -> None:
    event = events.failed(ApiError(500, "no", type="server_error"))

    assert event == Event(
        "error",
        {"error": {"message": "no", "type": "server_error", "param": None, "code": None}},
    )
