// The weather and nickname functions, streamed: outputs are submitted when the run asks for them.
import { EventEmitter } from "node:events";
import OpenAI from "openai";

const openai = new OpenAI();

class EventHandler extends EventEmitter {
  constructor(client) {
    super();
    this.client = client;
  }

  async onEvent(event) {
    // Retrieve events that are denoted with 'requires_action': they have our tool_calls.
    if (event.event === "thread.run.requires_action") {
      await this.handleRequiresAction(event.data, event.data.id, event.data.thread_id);
    }
    if (event.event === "thread.message.delta") {
      process.stdout.write(event.data.delta.content[0].text.value ?? "");
    }
  }

  async handleRequiresAction(data, runId, threadId) {
    const toolOutputs = data.required_action.submit_tool_outputs.tool_calls.map((toolCall) => {
      console.log(toolCall.function.name);
      return {
        tool_call_id: toolCall.id,
        output: toolCall.function.name === "getCurrentWeather" ? "22C" : "LA",
      };
    });
    await this.submitToolOutputs(toolOutputs, runId, threadId);
  }

  async submitToolOutputs(toolOutputs, runId, threadId) {
    const stream = this.client.beta.threads.runs.submitToolOutputsStream(threadId, runId, {
      tool_outputs: toolOutputs,
    });
    for await (const event of stream) {
      await this.onEvent(event);
    }
  }
}

const parameters = {
  type: "object",
  properties: {
    location: { type: "string", description: "The city and state e.g. San Francisco, CA" },
  },
  required: ["location"],
};

async function main() {
  const assistant = await openai.beta.assistants.create({
    instructions: "You are a weather bot. Use the provided functions to answer questions.",
    model: "gpt-4o",
    tools: [
      {
        type: "function",
        function: {
          name: "getCurrentWeather",
          description: "Get the weather in location",
          parameters,
        },
      },
      {
        type: "function",
        function: { name: "getNickname", description: "Get the nickname of a city", parameters },
      },
    ],
  });

  const thread = await openai.beta.threads.create();
  await openai.beta.threads.messages.create(thread.id, {
    role: "user",
    content: "What's the weather in Los Angeles today, and what do people call the city?",
  });

  const eventHandler = new EventHandler(openai);
  const stream = await openai.beta.threads.runs.stream(thread.id, { assistant_id: assistant.id });
  for await (const event of stream) {
    await eventHandler.onEvent(event);
  }
  console.log();
}

main();
