"""A handler of steps: code as it is written, then the answer; then the assistant is deleted."""

import openai
from openai import AssistantEventHandler
from typing_extensions import override


class EventHandler(AssistantEventHandler):
    @override
    def on_event(self, event) -> None:
        if event.event == "thread.run.step.created":
            if event.data.step_details.type == "tool_calls":
                print("Code:\n")
        elif event.event == "thread.message.created":
            print("\nAnswer:\n")

    @override
    def on_text_delta(self, delta, snapshot) -> None:
        print(delta.value, end="", flush=True)

    @override
    def on_run_step_done(self, run_step) -> None:
        if run_step.step_details.type == "tool_calls":
            for tool in run_step.step_details.tool_calls:
                if tool.type == "code_interpreter":
                    print("\nThe code has run.")

    @override
    def on_run_step_delta(self, delta, snapshot) -> None:
        details = delta.step_details
        if details is not None and details.type == "tool_calls":
            for tool in details.tool_calls or []:
                if tool.type == "code_interpreter" and tool.code_interpreter.input:
                    print(tool.code_interpreter.input, end="", flush=True)


client = openai.OpenAI()

assistant = client.beta.assistants.create(
    name="Math Tutor",
    instructions="You are a personal math tutor. Write and run code to answer math questions.",
    tools=[{"type": "code_interpreter"}],
    model="gpt-4-1106-preview",
)

try:
    question = "I need to solve the equation `3x + 11 = 14`. Can you help me?"
    thread = client.beta.threads.create(messages=[{"role": "user", "content": question}])

    with client.beta.threads.runs.stream(
        thread_id=thread.id,
        assistant_id=assistant.id,
        instructions="Please address the user as Jane Doe. The user has a premium account.",
        event_handler=EventHandler(),
    ) as stream:
        stream.until_done()
        print()
finally:
    client.beta.assistants.delete(assistant.id)
