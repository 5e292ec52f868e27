"""The weather and nickname functions, streamed: the outputs are submitted from the handler."""

from openai import AssistantEventHandler, OpenAI
from typing_extensions import override

client = OpenAI()

LOCATION = {
    "type": "object",
    "properties": {
        "location": {
            "type": "string",
            "description": "The city and state e.g. San Francisco, CA",
        },
    },
    "required": ["location"],
}

assistant = client.beta.assistants.create(
    instructions="You are a weather bot. Use the provided functions to answer questions.",
    model="gpt-4o",
    tools=[
        {
            "type": "function",
            "function": {
                "name": "getCurrentWeather",
                "description": "Get the weather in location",
                "parameters": LOCATION,
            },
        },
        {
            "type": "function",
            "function": {
                "name": "getNickname",
                "description": "Get the nickname of a city",
                "parameters": LOCATION,
            },
        },
    ],
)

thread = client.beta.threads.create()
message = client.beta.threads.messages.create(
    thread_id=thread.id,
    role="user",
    content="What's the weather in Los Angeles today, and what do people call the city?",
)


class EventHandler(AssistantEventHandler):
    @override
    def on_event(self, event):
        # Retrieve events that are denoted with 'requires_action': they have our tool_calls.
        if event.event == "thread.run.requires_action":
            run_id = event.data.id
            self.handle_requires_action(event.data, run_id)

    def handle_requires_action(self, data, run_id):
        tool_outputs = []
        for tool in data.required_action.submit_tool_outputs.tool_calls:
            print(tool.function.name)
            if tool.function.name == "getCurrentWeather":
                tool_outputs.append({"tool_call_id": tool.id, "output": "22C"})
            elif tool.function.name == "getNickname":
                tool_outputs.append({"tool_call_id": tool.id, "output": "LA"})
        self.submit_tool_outputs(tool_outputs, run_id)

    def submit_tool_outputs(self, tool_outputs, run_id):
        with client.beta.threads.runs.submit_tool_outputs_stream(
            thread_id=self.current_run.thread_id,
            run_id=self.current_run.id,
            tool_outputs=tool_outputs,
            event_handler=AssistantEventHandler(),
        ) as stream:
            for text in stream.text_deltas:
                print(text, end="", flush=True)
            print()


with client.beta.threads.runs.stream(
    thread_id=thread.id, assistant_id=assistant.id, event_handler=EventHandler()
) as stream:
    stream.until_done()
