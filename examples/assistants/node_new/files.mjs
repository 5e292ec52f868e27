// Files for the code interpreter: one for every thread of an assistant, one for a single thread.
import fs from "node:fs";
import OpenAI, { toFile } from "openai";

const openai = new OpenAI();

async function main() {
  // At the level of the assistant.
  const file = await openai.files.create({
    file: fs.createReadStream("mydata.csv"),
    purpose: "assistants",
  });

  const assistant = await openai.beta.assistants.create({
    instructions: "You are a personal math tutor. Write and run code to answer math questions.",
    model: "gpt-4o",
    tools: [{ type: "code_interpreter" }],
    tool_resources: { code_interpreter: { file_ids: [file.id] } },
  });

  // At the level of the thread, as an attachment of a message.
  const other = await openai.files.create({
    file: await toFile(Buffer.from("Only this thread knows."), "notes.txt"),
    purpose: "assistants",
  });

  const thread = await openai.beta.threads.create({
    messages: [
      {
        role: "user",
        content: "Which files do you have, and what is in them?",
        attachments: [{ file_id: other.id, tools: [{ type: "code_interpreter" }] }],
      },
    ],
  });

  const run = await openai.beta.threads.runs.createAndPoll(thread.id, {
    assistant_id: assistant.id,
  });
  if (run.status !== "completed") throw new Error(JSON.stringify(run.last_error));

  const messages = await openai.beta.threads.messages.list(thread.id);
  console.log(messages.data[0].content[0].text.value);

  const changed = await openai.beta.threads.retrieve(thread.id);
  console.log("of the thread:", changed.tool_resources.code_interpreter.file_ids[0] === other.id);

  // Detaching keeps the file; deleting it is another call.
  const detached = await openai.beta.assistants.update(assistant.id, {
    tool_resources: { code_interpreter: { file_ids: [] } },
  });
  console.log("of the assistant:", detached.tool_resources.code_interpreter.file_ids.length);
  console.log((await openai.files.retrieve(file.id)).filename);
  console.log("deleted:", (await openai.files.delete(file.id)).deleted);
}

main();
