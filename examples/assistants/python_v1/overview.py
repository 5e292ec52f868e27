"""An assistant that is given one thing after the other: threads, steps, a function with a quiz."""

import json
import time

from openai import OpenAI

client = OpenAI()

assistant = client.beta.assistants.create(
    name="Math Tutor",
    instructions="You are a personal math tutor. Answer questions briefly, in a sentence or less.",
    model="gpt-4-1106-preview",
)
MATH_ASSISTANT_ID = assistant.id


def submit_message(assistant_id, thread, user_message):
    client.beta.threads.messages.create(thread_id=thread.id, role="user", content=user_message)
    return client.beta.threads.runs.create(thread_id=thread.id, assistant_id=assistant_id)


def get_response(thread):
    return client.beta.threads.messages.list(thread_id=thread.id, order="asc")


def create_thread_and_run(user_input):
    thread = client.beta.threads.create()
    run = submit_message(MATH_ASSISTANT_ID, thread, user_input)
    return thread, run


def wait_on_run(run, thread):
    while run.status == "queued" or run.status == "in_progress":
        run = client.beta.threads.runs.retrieve(thread_id=thread.id, run_id=run.id)
        time.sleep(0.1)
    return run


def pretty_print(messages):
    for m in messages:
        print(f"{m.role}: {m.content[0].text.value}")


# Several users at a time.
thread1, run1 = create_thread_and_run("Could you explain linear algebra to me?")
thread2, run2 = create_thread_and_run("I don't like math. What can I do?")
run1 = wait_on_run(run1, thread1)
pretty_print(get_response(thread1))
run2 = wait_on_run(run2, thread2)
pretty_print(get_response(thread2))

# One of them goes on; only what came after the message is asked for.
message = client.beta.threads.messages.create(
    thread_id=thread2.id, role="user", content="Thank you!"
)
run = client.beta.threads.runs.create(thread_id=thread2.id, assistant_id=assistant.id)
wait_on_run(run, thread2)
messages = client.beta.threads.messages.list(thread_id=thread2.id, order="asc", after=message.id)
pretty_print(messages)

# Now it may run code.
assistant = client.beta.assistants.update(MATH_ASSISTANT_ID, tools=[{"type": "code_interpreter"}])
thread, run = create_thread_and_run("Generate the first 20 fibonacci numbers with code.")
run = wait_on_run(run, thread)
pretty_print(get_response(thread))

run_steps = client.beta.threads.runs.steps.list(thread_id=thread.id, run_id=run.id, order="asc")
for step in run_steps.data:
    print(json.dumps(json.loads(step.step_details.model_dump_json())))

# And call a function.
function_json = {
    "name": "display_quiz",
    "description": "Shows the student a quiz, and returns the answers.",
    "parameters": {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "questions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "question_text": {"type": "string"},
                        "question_type": {
                            "type": "string",
                            "enum": ["MULTIPLE_CHOICE", "FREE_RESPONSE"],
                        },
                        "choices": {"type": "array", "items": {"type": "string"}},
                    },
                    "required": ["question_text"],
                },
            },
        },
        "required": ["title", "questions"],
    },
}
assistant = client.beta.assistants.update(
    MATH_ASSISTANT_ID,
    tools=[
        {"type": "code_interpreter"},
        {"type": "function", "function": function_json},
    ],
)
thread, run = create_thread_and_run("Make a quiz with 2 questions. Then, give me feedback.")
run = wait_on_run(run, thread)
print(run.status)

tool_call = run.required_action.submit_tool_outputs.tool_calls[0]
arguments = json.loads(tool_call.function.arguments)
print(tool_call.function.name, arguments["title"])
responses = ["I don't know." for question in arguments["questions"]]

run = client.beta.threads.runs.submit_tool_outputs(
    thread_id=thread.id,
    run_id=run.id,
    tool_outputs=[{"tool_call_id": tool_call.id, "output": json.dumps(responses)}],
)
run = wait_on_run(run, thread)
pretty_print(get_response(thread))
