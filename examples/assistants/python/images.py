"""Show the model images: one by its address, one that was uploaded, one in detail."""

from openai import OpenAI

client = OpenAI()

assistant = client.beta.assistants.create(name="Observer", model="gpt-4o")

file = client.files.create(file=open("myimage.png", "rb"), purpose="vision")
thread = client.beta.threads.create(
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is the difference between these images?"},
                {"type": "image_url", "image_url": {"url": "https://example.com/image.png"}},
                {"type": "image_file", "image_file": {"file_id": file.id}},
            ],
        }
    ]
)
run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
print(run.status)

thread = client.beta.threads.create(
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this an image of?"},
                {
                    "type": "image_url",
                    "image_url": {"url": "https://example.com/image.png", "detail": "high"},
                },
            ],
        }
    ]
)
run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
messages = client.beta.threads.messages.list(thread_id=thread.id)
print(messages.data[0].content[0].text.value)
