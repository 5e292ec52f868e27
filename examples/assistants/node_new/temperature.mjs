// Two functions that are called in parallel: the temperature, and the probability of rain.
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

const handleRequiresAction = async (run) => {
  if (run.required_action?.submit_tool_outputs?.tool_calls) {
    // All outputs are collected first, as they have to be submitted together.
    const toolOutputs = run.required_action.submit_tool_outputs.tool_calls.map(
      (tool) => {
        if (tool.function.name === "getCurrentTemperature") {
          return { tool_call_id: tool.id, output: "57" };
        } else if (tool.function.name === "getRainProbability") {
          return { tool_call_id: tool.id, output: "0.06" };
        }
      },
    );
    if (toolOutputs.length > 0) {
      run = await client.beta.threads.runs.submitToolOutputsAndPoll(run.id, {
        thread_id: thread.id,
        tool_outputs: toolOutputs,
      });
    }
    return handleRunStatus(run);
  }
};

const handleRunStatus = async (run) => {
  if (run.status === "completed") {
    const messages = await client.beta.threads.messages.list(thread.id);
    console.log(messages.data[0].content[0].text.value);
    return messages.data;
  } else if (run.status === "requires_action") {
    console.log(run.status);
    return await handleRequiresAction(run);
  } else {
    console.error("Run did not complete:", run);
  }
};

const run = await client.beta.threads.runs.createAndPoll(thread.id, {
  assistant_id: assistant.id,
});

await handleRunStatus(run);
