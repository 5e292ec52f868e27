"""Draw what a file (`file_ids`) shows; a run of its own chooses model, prompt and tools."""

import time

from openai import OpenAI

client = OpenAI()

file = client.files.create(file=open("mydata.csv", "rb"), purpose="assistants")

assistant = client.beta.assistants.create(
    name="Data visualizer",
    description="Draws what the data in .csv files shows, and says it in a few words.",
    model="gpt-4-1106-preview",
    tools=[{"type": "code_interpreter"}],
    file_ids=[file.id],
)

thread = client.beta.threads.create(
    messages=[
        {
            "role": "user",
            "content": "Create 3 data visualizations based on the trends in this file.",
            "file_ids": [file.id],
        }
    ]
)


def wait_for(run):
    while run.status in ("queued", "in_progress"):
        time.sleep(0.2)
        run = client.beta.threads.runs.retrieve(thread_id=thread.id, run_id=run.id)
    return run


run = client.beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant.id)
print(wait_for(run).status)

message = client.beta.threads.messages.list(thread_id=thread.id).data[0]
print([part.type for part in message.content])

run = client.beta.threads.runs.create(
    thread_id=thread.id,
    assistant_id=assistant.id,
    model="gpt-4-1106-preview",
    instructions="New instructions that override the Assistant instructions",
    tools=[{"type": "code_interpreter"}, {"type": "retrieval"}],
)
print(run.instructions, [tool.type for tool in run.tools])
print(wait_for(run).status)
