// A math tutor that writes and runs code: create, poll, list the messages.
import OpenAI from "openai";

const openai = new OpenAI();

async function main() {
  const assistant = await openai.beta.assistants.create({
    name: "Math Tutor",
    instructions: "You are a personal math tutor. Write and run code to answer math questions.",
    tools: [{ type: "code_interpreter" }],
    model: "gpt-4o",
  });

  const thread = await openai.beta.threads.create();

  await openai.beta.threads.messages.create(thread.id, {
    role: "user",
    content: "I need to solve the equation `3x + 11 = 14`. Can you help me?",
  });

  const run = await openai.beta.threads.runs.createAndPoll(thread.id, {
    assistant_id: assistant.id,
    instructions: "Please address the user as Jane Doe. The user has a premium account.",
  });

  if (run.status === "completed") {
    const messages = await openai.beta.threads.messages.list(run.thread_id);
    for (const message of messages.data.reverse()) {
      console.log(`${message.role} > ${message.content[0].text.value}`);
    }
  } else {
    console.log(run.status, run.last_error);
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
