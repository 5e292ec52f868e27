// Two functions of ours that the assistant calls in parallel: the weather, and a nickname.
import { setTimeout as sleep } from "node:timers/promises";
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

  let run = await openai.beta.threads.runs.create(thread.id, { assistant_id: assistant.id });
  while (["queued", "in_progress"].includes(run.status)) {
    await sleep(200);
    run = await openai.beta.threads.runs.retrieve(run.id, { thread_id: thread.id });
  }

  const toolCalls = run.required_action.submit_tool_outputs.tool_calls;
  for (const toolCall of toolCalls) {
    console.log(toolCall.function.name, JSON.parse(toolCall.function.arguments));
  }
  const callIds = toolCalls.map((toolCall) => toolCall.id);

  run = await openai.beta.threads.runs.submitToolOutputs(run.id, {
    thread_id: thread.id,
    tool_outputs: [
      {
        tool_call_id: callIds[0],
        output: "22C",
      },
      {
        tool_call_id: callIds[1],
        output: "LA",
      },
    ],
  });
  while (["queued", "in_progress"].includes(run.status)) {
    await sleep(200);
    run = await openai.beta.threads.runs.retrieve(run.id, { thread_id: thread.id });
  }

  if (run.status === "completed") {
    const messages = await openai.beta.threads.messages.list(run.thread_id);
    console.log(messages.data[0].content[0].text.value);
  } else {
    console.log(run.status, run.last_error);
  }
}

main();
