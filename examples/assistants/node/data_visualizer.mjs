// Draw what a file of the assistant shows; a run of its own chooses model, prompt and tools.
import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";

const openai = new OpenAI();

const file = await openai.files.create({
  file: fs.createReadStream("mydata.csv"),
  purpose: "assistants",
});

const assistant = await openai.beta.assistants.create({
  name: "Data visualizer",
  description: "Draws what the data in .csv files shows, and says it in a few words.",
  model: "gpt-4o",
  tools: [{ type: "code_interpreter" }],
  tool_resources: { code_interpreter: { file_ids: [file.id] } },
});

const thread = await openai.beta.threads.create({
  messages: [
    {
      role: "user",
      content: "Create 3 data visualizations based on the trends in this file.",
      attachments: [{ file_id: file.id, tools: [{ type: "code_interpreter" }] }],
    },
  ],
});

async function waitFor(run) {
  while (["queued", "in_progress"].includes(run.status)) {
    await sleep(200);
    run = await openai.beta.threads.runs.retrieve(thread.id, run.id);
  }
  return run;
}

let run = await openai.beta.threads.runs.create(thread.id, { assistant_id: assistant.id });
console.log((await waitFor(run)).status);

const messages = await openai.beta.threads.messages.list(thread.id, { run_id: run.id });
console.log(JSON.stringify(messages.data[0].content.map((part) => part.type)));

run = await openai.beta.threads.runs.create(thread.id, {
  assistant_id: assistant.id,
  model: "gpt-4o",
  instructions: "New instructions that override the Assistant instructions",
  tools: [{ type: "code_interpreter" }, { type: "file_search" }],
});
console.log(run.instructions, JSON.stringify(run.tools.map((tool) => tool.type)));
console.log((await waitFor(run)).status);
