// The functions of temperature.mjs, streamed: outputs are submitted when the run asks for them.
import { EventEmitter } from "node:events";
import OpenAI from "openai";

const client = new OpenAI();

const tools = [
  {
    type: "function",
    function: {
      name: "getCurrentTemperature",
      description: "Get the current temperature for a specific location",
      parameters: {
        type: "object",
        properties: {
          location: {
            type: "string",
            description: "The city and state, e.g., San Francisco, CA",
          },
          unit: {
            type: "string",
            enum: ["Celsius", "Fahrenheit"],
            description: "The unit; infer it from the user's location.",
          },
        },
        required: ["location", "unit"],
        additionalProperties: false,
      },
      strict: true,
    },
  },
  {
    type: "function",
    function: {
      name: "getRainProbability",
      description: "Get the probability of rain for a specific location",
      parameters: {
        type: "object",
        properties: {
          location: {
            type: "string",
            description: "The city and state, e.g., San Francisco, CA",
          },
        },
        required: ["location"],
        additionalProperties: false,
      },
      strict: true,
    },
  },
];

class EventHandler extends EventEmitter {
  constructor(client) {
    super();
    this.client = client;
  }

  async onEvent(event) {
    if (event.event === "thread.message.delta") {
      process.stdout.write(event.data.delta.content[0].text.value ?? "");
    }
    // A run that requires action names the functions to call.
    if (event.event === "thread.run.requires_action") {
      await this.handleRequiresAction(event.data, event.data.id, event.data.thread_id);
    }
  }

  async handleRequiresAction(data, runId, threadId) {
    const toolOutputs = data.required_action.submit_tool_outputs.tool_calls.map(
      (tool) => {
        if (tool.function.name === "getCurrentTemperature") {
          return { tool_call_id: tool.id, output: "57" };
        } else if (tool.function.name === "getRainProbability") {
          return { tool_call_id: tool.id, output: "0.06" };
        }
      },
    );
    await this.submitToolOutputs(toolOutputs, runId, threadId);
  }

  async submitToolOutputs(toolOutputs, runId, threadId) {
    const stream = this.client.beta.threads.runs.submitToolOutputsStream(runId, {
      thread_id: threadId,
      tool_outputs: toolOutputs,
    });
    for await (const event of stream) {
      this.emit("event", event);
    }
  }
}

const assistant = await client.beta.assistants.create({
  model: "gpt-4o",
  instructions: "You are a weather bot. Use the provided functions to answer questions.",
  tools,
});

const thread = await client.beta.threads.create();
await client.beta.threads.messages.create(thread.id, {
  role: "user",
  content: "What's the weather in San Francisco today and the likelihood it'll rain?",
});

const eventHandler = new EventHandler(client);
eventHandler.on("event", eventHandler.onEvent.bind(eventHandler));

const stream = await client.beta.threads.runs.stream(
  thread.id,
  { assistant_id: assistant.id },
  eventHandler,
);

for await (const event of stream) {
  eventHandler.emit("event", event);
}
