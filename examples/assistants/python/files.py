"""Files for the code interpreter: one for every thread of an assistant, one for a single thread."""

from openai import OpenAI

client = OpenAI()

# At the level of the assistant.
file = client.files.create(file=open("mydata.csv", "rb"), purpose="assistants")

assistant = client.beta.assistants.create(
    instructions="You are a personal math tutor. Write and run code to answer math questions.",
    model="gpt-4o",
    tools=[{"type": "code_interpreter"}],
    tool_resources={"code_interpreter": {"file_ids": [file.id]}},
)

# At the level of the thread, as an attachment of a message.
other = client.files.create(file=("notes.txt", b"Only this thread knows."), purpose="assistants")

thread = client.beta.threads.create(
    messages=[
        {
            "role": "user",
            "content": "Which files do you have, and what is in them?",
            "attachments": [{"file_id": other.id, "tools": [{"type": "code_interpreter"}]}],
        }
    ]
)

run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
assert run.status == "completed", run.last_error
print(client.beta.threads.messages.list(thread_id=thread.id).data[0].content[0].text.value)

thread = client.beta.threads.retrieve(thread.id)
print("of the thread:", thread.tool_resources.code_interpreter.file_ids == [other.id])

# Detaching keeps the file; deleting it is another call.
assistant = client.beta.assistants.update(
    assistant.id, tool_resources={"code_interpreter": {"file_ids": []}}
)
print("of the assistant:", assistant.tool_resources.code_interpreter.file_ids)
print(client.files.retrieve(file.id).filename)
print("deleted:", client.files.delete(file.id).deleted)
