"""Shuffle the rows of a CSV file, and download the result from the link in the message."""

from openai import OpenAI

client = OpenAI()

file = client.files.create(file=open("mydata.csv", "rb"), purpose="assistants")

assistant = client.beta.assistants.create(
    instructions="You are a data assistant. Write and run code to work on the user's files.",
    model="gpt-4o",
    tools=[{"type": "code_interpreter"}],
    tool_resources={"code_interpreter": {"file_ids": [file.id]}},
)

thread = client.beta.threads.create(
    messages=[{"role": "user", "content": "Shuffle the rows of the CSV file for me."}]
)

run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
assert run.status == "completed", run.last_error

message = client.beta.threads.messages.list(thread_id=thread.id).data[0]
text = message.content[0].text
print(text.value)

for annotation in text.annotations:
    if annotation.type == "file_path":
        print(annotation.text, annotation.start_index, annotation.end_index)
        data = client.files.content(annotation.file_path.file_id)
        with open("shuffled_file.csv", "wb") as shuffled:
            shuffled.write(data.read())

# Replace what the model wrote of files by footnotes, as a page would.
message = client.beta.threads.messages.retrieve(thread_id=thread.id, message_id=message.id)
message_content = message.content[0].text
annotations = message_content.annotations
citations = []
for index, annotation in enumerate(annotations):
    message_content.value = message_content.value.replace(annotation.text, f" [{index}]")
    if file_citation := getattr(annotation, "file_citation", None):
        cited_file = client.files.retrieve(file_citation.file_id)
        citations.append(f"[{index}] {file_citation.quote} from {cited_file.filename}")
    elif file_path := getattr(annotation, "file_path", None):
        cited_file = client.files.retrieve(file_path.file_id)
        citations.append(f"[{index}] Click <here> to download {cited_file.filename}")
message_content.value += "\n" + "\n".join(citations)
print(message_content.value)
