"""Files in version 1: `file_ids` of an assistant and of a message, and their own endpoints."""

from openai import OpenAI

client = OpenAI()

# At the level of the assistant.
file = client.files.create(file=open("mydata.csv", "rb"), purpose="assistants")

assistant = client.beta.assistants.create(
    instructions="You are a personal math tutor. Write and run code to answer math questions.",
    model="gpt-4-1106-preview",
    tools=[{"type": "code_interpreter"}],
    file_ids=[file.id],
)

# At the level of the thread.
other = client.files.create(file=("notes.txt", b"Only this thread knows."), purpose="assistants")

thread = client.beta.threads.create(
    messages=[
        {
            "role": "user",
            "content": "Which files do you have, and what is in them?",
            "file_ids": [other.id],
        }
    ]
)

run = client.beta.threads.runs.create_and_poll(
    thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=200
)
assert run.status == "completed", run.last_error
print("of the run:", run.file_ids == [file.id])

answer, question = client.beta.threads.messages.list(thread_id=thread.id).data
print(answer.content[0].text.value)
print("of the message:", question.file_ids == [other.id])

message_files = client.beta.threads.messages.files.list(thread_id=thread.id, message_id=question.id)
print([message_file.id == other.id for message_file in message_files])

assistant_files = client.beta.assistants.files.list(assistant_id=assistant.id)
print([assistant_file.id == file.id for assistant_file in assistant_files])

# Detaching keeps the file; deleting it is another call.
deleted = client.beta.assistants.files.delete(assistant_id=assistant.id, file_id=file.id)
print("detached:", deleted.deleted)
print(client.files.retrieve(file.id).filename)
print("deleted:", client.files.delete(file.id).deleted)
