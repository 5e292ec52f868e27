"""The math tutor as it was first printed: create, retrieve until it has ended, list."""

import time

from openai import OpenAI

client = OpenAI()

assistant = client.beta.assistants.create(
    name="Math Tutor",
    instructions="You are a personal math tutor. Write and run code to answer math questions.",
    tools=[{"type": "code_interpreter"}],
    model="gpt-4-1106-preview",
)

thread = client.beta.threads.create()

message = client.beta.threads.messages.create(
    thread_id=thread.id,
    role="user",
    content="I need to solve the equation `3x + 11 = 14`. Can you help me?",
)

run = client.beta.threads.runs.create(
    thread_id=thread.id,
    assistant_id=assistant.id,
    instructions="Please address the user as Jane Doe. The user has a premium account.",
)

while run.status in ("queued", "in_progress"):
    time.sleep(0.2)
    run = client.beta.threads.runs.retrieve(thread_id=thread.id, run_id=run.id)

messages = client.beta.threads.messages.list(thread_id=thread.id)
for message in messages:
    print(f"{message.role} > {message.content[0].text.value}")

run_steps = client.beta.threads.runs.steps.list(thread_id=thread.id, run_id=run.id)
for step in run_steps:
    if step.type == "tool_calls":
        for call in step.step_details.tool_calls:
            print(f"{call.type} > {call.code_interpreter.input}")
            for output in call.code_interpreter.outputs:
                print(f"{output.type} > {output.logs}")
