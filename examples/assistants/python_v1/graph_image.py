"""Let the assistant draw, and download the image that its message shows."""

from openai import OpenAI

client = OpenAI()

assistant = client.beta.assistants.create(
    instructions="You are a personal math tutor. Write and run code to answer math questions.",
    model="gpt-4-1106-preview",
    tools=[{"type": "code_interpreter"}],
)

thread = client.beta.threads.create(
    messages=[{"role": "user", "content": "Draw a graph of y = x squared from -5 to 5."}]
)

run = client.beta.threads.runs.create_and_poll(
    thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=200
)
assert run.status == "completed", run.last_error

message = client.beta.threads.messages.list(thread_id=thread.id).data[0]
for part in message.content:
    if part.type == "image_file":
        image_data = client.files.content(part.image_file.file_id)
        image_data_bytes = image_data.read()
        with open("./my-image.png", "wb") as file:
            file.write(image_data_bytes)
        print(f"my-image.png: {len(image_data_bytes)} bytes")
    else:
        print(part.text.value)
