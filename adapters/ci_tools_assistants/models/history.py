"""The thread and the steps of its runs as groups of LangChain messages, in their real order.

How this works: a run's steps say in which order it called tools and wrote messages, so its calls
are put before the message that they led to. Calls of a run that came to no message go by time.
A run's text directly before its calls is one message with them, as models write it. Calls of
earlier runs stay in the prompt, shortened, so that the model knows which variables there are.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from ci_tools_assistants.models.arguments import load_object
from ci_tools_assistants.models.capabilities import Capabilities, Family
from ci_tools_assistants.models.code_argument import CODE_TOOL, find_code_tool
from ci_tools_assistants.models.conversation import Conversation, Group, ToolResult
from ci_tools_assistants.models.surrogates import join_halves
from ci_tools_assistants.objects import Object

EARLIER_LIMIT: Final = 4_000
"""Characters of a result, and of a code, of an earlier run."""

CURRENT_LIMIT: Final = 40_000
"""Characters of a result of this run."""

_NO_OUTPUT: Final = "(no output)"
_UNANSWERED: Final = {
    "cancelled": "(The call was cancelled.)",
    "expired": "(There was no output in time.)",
    "failed": "(The call failed.)",
}


def to_groups(conversation: Conversation, can: Capabilities) -> list[Group]:
    """Return the whole conversation, oldest first, without the system's message."""
    return _History(conversation, can).build()


def shorten(text: str, limit: int) -> str:
    """Return the head and the tail of a text that is too long."""
    if len(text) <= limit:
        return text
    tail = limit // 4
    left_out = len(text) - limit
    return f"{text[: limit - tail]}\n… {left_out} characters left out …\n{text[-tail:]}"


class _History:
    def __init__(self, conversation: Conversation, can: Capabilities) -> None:
        self._of = conversation
        self._can = can
        self._groups: list[Group] = []
        self._code_tool = find_code_tool(conversation.tools) or CODE_TOOL
        self._answers = {
            tuple(call["id"] for call in answer.tool_calls): answer
            for answer in conversation.answers
        }
        there = {message["id"] for message in conversation.messages} | {None}
        self._left = {
            run_id: [step for step in steps if _message_of(step) in there]
            for run_id, steps in conversation.steps.items()
        }
        self._run_of = {
            step["step_details"]["message_creation"]["message_id"]: run_id
            for run_id, steps in conversation.steps.items()
            for step in steps
            if step["type"] == "message_creation"
        }
        self._loose: set[str] = set()
        for run_id in self._left:
            self._note_loose(run_id)

    def build(self) -> list[Group]:
        last = self._of.messages[-1:]
        for message in self._of.messages:
            run_id = self._run_of.get(message["id"])
            # No run but the one that asks is younger than the last question.
            is_question = message in last and message["role"] == "user"
            self._add_calls_before(message["created_at"] + is_question, but=run_id)
            if run_id is not None:
                self._add_calls_until(run_id, message["id"])
            self._add_message(message)
        current = self._left.pop(self._of.run_id, [])
        for run_id in sorted(self._left, key=self._start):
            self._add_steps(run_id, self._left[run_id])
        self._add_steps(self._of.run_id, current)
        return self._groups

    def _start(self, run_id: str) -> float:
        steps = self._left[run_id]
        return float(steps[0]["created_at"]) if steps else 0.0

    def _note_loose(self, run_id: str) -> None:
        """Remember a run whose calls that are left lead to no message any more."""
        steps = self._left[run_id]
        leads_on = any(step["type"] == "message_creation" for step in steps)
        if steps and not leads_on and run_id != self._of.run_id:
            self._loose.add(run_id)

    def _add_calls_before(self, time: float, *, but: str | None) -> None:
        """Add the calls of runs that came to no message any more; there are seldom any."""
        for run_id in sorted(self._loose - {but}, key=self._start):
            steps = self._left[run_id]
            if steps[-1]["created_at"] < time:
                self._add_steps(run_id, steps)
                self._left[run_id] = []
                self._loose.discard(run_id)

    def _add_calls_until(self, run_id: str, message_id: str) -> None:
        steps = self._left[run_id]
        for number, step in enumerate(steps):
            if _message_of(step) == message_id:
                self._add_steps(run_id, steps[:number])
                self._left[run_id] = steps[number + 1 :]
                self._note_loose(run_id)
                return

    def _add_steps(self, run_id: str, steps: Sequence[Object]) -> None:
        for step in steps:
            if step["type"] == "tool_calls":
                self._add_call_step(run_id, step)

    def _add_message(self, message: Object) -> None:
        is_user = message["role"] == "user"
        blocks = list(self._to_blocks(message, is_user=is_user))
        if not blocks:
            return
        if all(block["type"] == "text" for block in blocks):
            text = "\n".join(block["text"] for block in blocks)
            made: BaseMessage = HumanMessage(text) if is_user else AIMessage(text)
        else:
            made = HumanMessage([*blocks])
        self._groups.append(
            Group([made], [message["id"]], run_id=message.get("run_id"), is_user=is_user)
        )

    def _to_blocks(self, message: Object, *, is_user: bool) -> Iterator[dict[str, Any]]:
        for part in message["content"]:
            match part["type"]:
                case "text":
                    if value := part["text"]["value"]:
                        yield _note(value)
                case "refusal":
                    yield _note(part["refusal"])
                case "image_file":
                    image = part["image_file"]
                    if is_user and self._can.images:
                        yield {"type": "image_file", **image}
                    else:
                        yield _note(f"[image {image['file_id']}]")
                case "image_url":
                    yield self._to_url(part["image_url"], is_user=is_user)
        if is_user and (attached := message.get("attachments")):
            ids = dict.fromkeys(item["file_id"] for item in attached if item.get("file_id"))
            names = self._of.file_names
            files = (f"{names[id]} ({id})" if id in names else id for id in ids)
            yield _note(f"[attached files: {', '.join(files)}]")

    def _to_url(self, image: Object, *, is_user: bool) -> dict[str, Any]:
        url = image["url"]
        is_inline = url.startswith("data:")
        if not is_user or not (self._can.images if is_inline else self._can.image_urls):
            return _note("[image]" if is_inline else f"[image at {url}]")
        return to_image_block(self._can, url=url, detail=image.get("detail"))

    def _add_call_step(self, run_id: str, step: Object) -> None:
        calls = [
            call
            for call in step["step_details"]["tool_calls"]
            if call["type"] in ("code_interpreter", "function")
        ]
        if not calls:
            return
        is_current = run_id == self._of.run_id
        if not (self._of.tools and self._can.tools):
            self._add_as_text(run_id, calls, step, is_current=is_current)
            return
        ids = tuple(call["id"] for call in calls)
        answer = self._answers.get(ids) if is_current else None
        before = self._take_text_before(run_id)
        if answer is None:
            made = [self._to_call(call, is_current=is_current) for call in calls]
            answer = AIMessage(before.text if before is not None else "", tool_calls=made)
        elif before is not None and before.text.strip() != str(answer.text).strip():
            self._groups.append(before)
            before = None
        results = [self._find_result(call, step, is_current=is_current) for call in calls]
        messages: list[BaseMessage] = [answer]
        shown: list[dict[str, Any]] = []
        for call, result in zip(calls, results, strict=True):
            images = [to_image_block(self._can, type_, data) for type_, data in result.images]
            content: str | list[str | dict[str, Any]] = result.text
            if images and self._can.tool_images == "tool":
                content = [{"type": "text", "text": result.text}, *images]
            elif images and self._can.tool_images == "user":
                shown += images
            elif images:
                content = f"{result.text}\n[The user sees the images; you cannot.]"
            messages.append(ToolMessage(content, tool_call_id=call["id"], name=self._name(call)))
        if shown:
            note = _note("[images that the code made]")
            messages.append(HumanMessage([note, *shown]))
        ids_before = before.message_ids if before is not None else []
        self._groups.append(Group(messages, ids_before, run_id=run_id, is_call=True))

    def _take_text_before(self, run_id: str) -> Group | None:
        """Remove and return the message that the run wrote directly before its calls."""
        last = self._groups[-1] if self._groups else None
        if last is None or last.run_id != run_id or last.is_user or last.is_call:
            return None
        return self._groups.pop()

    def _add_as_text(
        self, run_id: str, calls: Sequence[Object], step: Object, *, is_current: bool
    ) -> None:
        texts = []
        for call in calls:
            made = self._to_call(call, is_current=is_current)
            result = self._find_result(call, step, is_current=is_current)
            given = made["args"].get("code") or json.dumps(made["args"])
            texts.append(f"[{made['name']} was called with]\n{given}\n[result]\n{result.text}")
        self._groups.append(Group([AIMessage("\n\n".join(texts))], run_id=run_id, is_call=True))

    def _name(self, call: Object) -> str:
        return self._code_tool if call["type"] == "code_interpreter" else call["function"]["name"]

    def _to_call(self, call: Object, *, is_current: bool) -> dict[str, Any]:
        if call["type"] == "code_interpreter":
            code = join_halves(call["code_interpreter"]["input"])
            arguments = {"code": code if is_current else shorten(code, EARLIER_LIMIT)}
        else:
            arguments = _to_arguments(call["function"]["arguments"])
        return {"id": call["id"], "name": self._name(call), "args": arguments, "type": "tool_call"}

    def _find_result(self, call: Object, step: Object, *, is_current: bool) -> ToolResult:
        known = self._of.results.get(call["id"])
        if known is not None:
            return ToolResult(text=join_halves(known.text) or _NO_OUTPUT, images=known.images)
        text = join_halves(_to_text(call))
        if not text:
            text = _UNANSWERED.get(step["status"], _NO_OUTPUT)
        return ToolResult(text=shorten(text, CURRENT_LIMIT if is_current else EARLIER_LIMIT))


def to_image_block(
    can: Capabilities,
    media_type: str = "",
    data: str = "",
    *,
    url: str = "",
    detail: str | None = None,
) -> dict[str, Any]:
    """Return an image, as base64 or by its address, as the provider's package takes it."""
    if can.family in (Family.OPENAI, Family.OTHER):
        image: dict[str, Any] = {"url": url or f"data:{media_type};base64,{data}"}
        if detail in ("low", "high"):
            image["detail"] = detail
        return {"type": "image_url", "image_url": image}
    if url.startswith("data:"):
        head, _, data = url.partition(",")
        media_type = head.removeprefix("data:").partition(";")[0]
        url = ""
    if url:
        return {"type": "image", "url": url}
    return {"type": "image", "base64": data, "mime_type": media_type}


def _note(text: str) -> dict[str, Any]:
    return {"type": "text", "text": join_halves(text)}


def _message_of(step: Object) -> str | None:
    if step["type"] != "message_creation":
        return None
    return str(step["step_details"]["message_creation"]["message_id"])


def _to_arguments(text: str) -> dict[str, Any]:
    value = load_object(text)
    if value is None:
        return {}
    # Through text once more, for an escape may stand for half a character.
    return load_object(join_halves(json.dumps(value, ensure_ascii=False))) or {}


def _to_text(call: Object) -> str:
    if call["type"] == "function":
        return call["function"].get("output") or ""
    texts = []
    for output in call["code_interpreter"]["outputs"]:
        if output["type"] == "logs":
            texts.append(output["logs"])
        else:
            texts.append(f"[image {output['image']['file_id']}]")
    return "\n".join(texts)
