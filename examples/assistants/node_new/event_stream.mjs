// What the stream helper tells: events, deltas with what they add up to, and the run at the end.
import OpenAI from "openai";

const openai = new OpenAI();

async function main() {
  const assistant = await openai.beta.assistants.create({
    model: "gpt-4o",
    name: "Math Tutor",
    instructions: "You are a personal math tutor. Write and run code to answer math questions.",
    tools: [{ type: "code_interpreter" }],
  });

  const thread = await openai.beta.threads.create({
    messages: [
      {
        role: "user",
        content: "I need to solve the equation `3x + 11 = 14`. Can you help me?",
      },
    ],
  });

  const run = openai.beta.threads.runs
    .stream(thread.id, { assistant_id: assistant.id })
    .on("event", (event) => console.log(event.event))
    .on("textDelta", (delta, snapshot) => console.log(snapshot.value))
    .on("messageDelta", (delta, snapshot) => console.log(snapshot.id))
    .on("run", (run) => console.log(run.status))
    .on("connect", () => console.log());
  const result = await run.finalRun();
  console.log("Run Result " + result.status);
}

main();
