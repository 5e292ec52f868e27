from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from langchain_ci_tools import place_images
from langchain_ci_tools.images import find_placement, takes_pdf

IMAGE = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
TEXT = {"type": "text", "text": "[image 1]"}

SEES = {"image_inputs": True, "image_tool_message": True, "pdf_tool_message": True}


def conversation() -> list[AnyMessage]:
    return [
        HumanMessage("plot it"),
        AIMessage("", tool_calls=[]),
        ToolMessage([TEXT, IMAGE], tool_call_id="1", name="run_code"),
        ToolMessage("text", tool_call_id="2", name="run_code"),
        AIMessage("here"),
    ]


@pytest.mark.parametrize(
    ("model", "placement"),
    [
        (None, "none"),
        (SimpleNamespace(profile=None), "none"),
        (SimpleNamespace(profile={}), "none"),
        (SimpleNamespace(profile=SEES), "tool"),
        (SimpleNamespace(profile={"image_inputs": True}), "user"),
        # Its Chat Completions API takes no images in tool messages, whatever the profile says.
        (SimpleNamespace(profile=SEES, use_responses_api=None), "user"),
        (SimpleNamespace(profile=SEES, use_responses_api=True), "tool"),
        (SimpleNamespace(profile={"image_tool_message": True}), "none"),
    ],
)
def test_images_go_by_the_model(model: object, placement: str) -> None:
    assert find_placement("auto", model) == placement


def test_a_choice_is_taken_whatever_the_model() -> None:
    assert find_placement("tool", None) == "tool"
    assert find_placement("none", SimpleNamespace(profile=SEES)) == "none"


def test_models_of_the_real_packages_get_what_their_interfaces_take() -> None:
    from langchain_anthropic import ChatAnthropic
    from langchain_openai import ChatOpenAI

    key: Any = "key"
    completions = ChatOpenAI(model="gpt-4o", api_key=key)
    responses = ChatOpenAI(model="gpt-5", api_key=key, use_responses_api=True)
    unknown = ChatOpenAI(model="qwen", base_url="http://127.0.0.1:1/v1", api_key=key)
    claude = ChatAnthropic(model_name="claude-fable-5", api_key=key, timeout=1, stop=None)

    placements = [
        find_placement("auto", model) for model in (completions, responses, unknown, claude)
    ]

    assert placements == ["user", "tool", "none", "tool"]
    assert [takes_pdf(model) for model in (completions, responses, claude)] == [False, True, True]


def test_images_stay_where_the_model_takes_them() -> None:
    assert place_images(conversation(), "tool") == conversation()


def test_images_for_the_user_follow_the_tool_messages_of_the_turn() -> None:
    before = conversation()

    placed = place_images(before, "user")

    assert [message.type for message in placed] == ["human", "ai", "tool", "tool", "human", "ai"]
    assert placed[2].content == [TEXT]
    assert placed[4].content == [
        {"type": "text", "text": "The output of run_code (1):"},
        IMAGE,
    ]
    assert before == conversation()


def test_images_at_the_end_are_placed_too() -> None:
    placed = place_images(conversation()[:3], "user")

    assert placed[-1].content[-1] == IMAGE


def test_models_without_eyes_get_a_note() -> None:
    placed = place_images(conversation(), model=SimpleNamespace(profile={}))

    assert len(placed) == 5
    assert IMAGE not in placed[2].content
    assert "1 left out" in str(placed[2].content)
