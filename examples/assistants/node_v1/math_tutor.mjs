// The math tutor as it was first printed: create, retrieve until it has ended, list.
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";

const openai = new OpenAI();

async function main() {
  const assistant = await openai.beta.assistants.create({
    name: "Math Tutor",
    instructions: "You are a personal math tutor. Write and run code to answer math questions.",
    tools: [{ type: "code_interpreter" }],
    model: "gpt-4-1106-preview",
  });

  const thread = await openai.beta.threads.create();

  await openai.beta.threads.messages.create(thread.id, {
    role: "user",
    content: "I need to solve the equation `3x + 11 = 14`. Can you help me?",
  });

  let run = await openai.beta.threads.runs.create(thread.id, {
    assistant_id: assistant.id,
    instructions: "Please address the user as Jane Doe. The user has a premium account.",
  });

  while (["queued", "in_progress"].includes(run.status)) {
    await sleep(200);
    run = await openai.beta.threads.runs.retrieve(thread.id, run.id);
  }

  const messages = await openai.beta.threads.messages.list(thread.id);
  for (const message of messages.data) {
    console.log(`${message.role} > ${message.content[0].text.value}`);
  }

  const runSteps = await openai.beta.threads.runs.steps.list(thread.id, run.id);
  for (const step of runSteps.data) {
    if (step.type !== "tool_calls") continue;
    for (const call of step.step_details.tool_calls) {
      console.log(`${call.type} > ${call.code_interpreter.input}`);
      for (const output of call.code_interpreter.outputs) {
        console.log(`${output.type} > ${output.logs}`);
      }
    }
  }
}

main();
