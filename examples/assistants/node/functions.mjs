// Two functions of ours that the assistant calls in parallel: the weather, and a nickname.
import OpenAI from "openai";

const openai = new OpenAI();

const location = {
  type: "string",
  description: "The city and state e.g. San Francisco, CA",
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
          parameters: {
            type: "object",
            properties: { location, unit: { type: "string", enum: ["c", "f"] } },
            required: ["location"],
          },
        },
      },
      {
        type: "function",
        function: {
          name: "getNickname",
          description: "Get the nickname of a city",
          parameters: { type: "object", properties: { location }, required: ["location"] },
        },
      },
    ],
  });

  const thread = await openai.beta.threads.create();
  await openai.beta.threads.messages.create(thread.id, {
    role: "user",
    content: "What's the weather in Los Angeles today, and what do people call the city?",
  });

  let run = await openai.beta.threads.runs.createAndPoll(thread.id, {
    assistant_id: assistant.id,
  });

  const tool_outputs = run.required_action.submit_tool_outputs.tool_calls.map((tool) => {
    console.log(tool.function.name, JSON.parse(tool.function.arguments));
    return {
      tool_call_id: tool.id,
      output: tool.function.name === "getCurrentWeather" ? "22C" : "LA",
    };
  });

  run = await openai.beta.threads.runs.submitToolOutputsAndPoll(thread.id, run.id, {
    tool_outputs,
  });

  if (run.status === "completed") {
    const messages = await openai.beta.threads.messages.list(run.thread_id);
    console.log(messages.data[0].content[0].text.value);
  } else {
    console.log(run.status, run.last_error);
  }
}

main();
