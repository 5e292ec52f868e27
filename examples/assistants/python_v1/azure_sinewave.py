"""A picture drawn through Azure's addresses, and a question about it on the same thread."""

import json
import os
import time

from openai import AzureOpenAI

client = AzureOpenAI(
    api_key=os.getenv("AZURE_OPENAI_API_KEY"),
    api_version="2024-02-15-preview",
    azure_endpoint=os.getenv("AZURE_OPENAI_ENDPOINT"),
)

assistant = client.beta.assistants.create(
    name="Data Visualization",
    instructions="You draw what is asked for, in a sandbox where you write and test your code.",
    tools=[{"type": "code_interpreter"}],
    model="gpt-4-1106-preview",
)
print(assistant.model_dump_json(indent=2))

thread = client.beta.threads.create()
print(thread)

message = client.beta.threads.messages.create(
    thread_id=thread.id, role="user", content="Create a visualization of a sinewave"
)

thread_messages = client.beta.threads.messages.list(thread.id)
print(thread_messages.model_dump_json(indent=2))

run = client.beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant.id)
status = run.status
while status not in ["completed", "cancelled", "expired", "failed"]:
    time.sleep(0.2)
    run = client.beta.threads.runs.retrieve(thread_id=thread.id, run_id=run.id)
    status = run.status
print(f"Status: {status}")

messages = client.beta.threads.messages.list(thread_id=thread.id)
data = json.loads(messages.model_dump_json(indent=2))
image_file_id = data["data"][0]["content"][0]["image_file"]["file_id"]
print(image_file_id)

content = client.files.content(image_file_id)
content.write_to_file("sinewave.png")

message = client.beta.threads.messages.create(
    thread_id=thread.id, role="user", content="Show me the code that drew the sinewave"
)
run = client.beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant.id)
while run.status not in ["completed", "cancelled", "expired", "failed"]:
    time.sleep(0.2)
    run = client.beta.threads.runs.retrieve(thread_id=thread.id, run_id=run.id)

messages = client.beta.threads.messages.list(thread_id=thread.id)
data = json.loads(messages.model_dump_json(indent=2))
code = data["data"][0]["content"][0]["text"]["value"]
print(code)
