// Files in version 1: `file_ids` of an assistant and of a message, and their own endpoints.
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
    model: "gpt-4-1106-preview",
    tools: [{ type: "code_interpreter" }],
    file_ids: [file.id],
  });

  // At the level of the thread.
  const other = await openai.files.create({
    file: await toFile(Buffer.from("Only this thread knows."), "notes.txt"),
    purpose: "assistants",
  });

  const thread = await openai.beta.threads.create({
    messages: [
      {
        role: "user",
        content: "Which files do you have, and what is in them?",
        file_ids: [other.id],
      },
    ],
  });

  const run = await openai.beta.threads.runs.createAndPoll(thread.id, {
    assistant_id: assistant.id,
  });
  if (run.status !== "completed") throw new Error(JSON.stringify(run.last_error));
  console.log("of the run:", run.file_ids[0] === file.id);

  const [answer, question] = (await openai.beta.threads.messages.list(thread.id)).data;
  console.log(answer.content[0].text.value);
  console.log("of the message:", question.file_ids[0] === other.id);

  const messageFiles = await openai.beta.threads.messages.files.list(thread.id, question.id);
  console.log("listed:", messageFiles.data[0].id === other.id);

  const assistantFiles = await openai.beta.assistants.files.list(assistant.id);
  console.log("listed:", assistantFiles.data[0].id === file.id);

  // Detaching keeps the file; deleting it is another call.
  const detached = await openai.beta.assistants.files.del(assistant.id, file.id);
  console.log("detached:", detached.deleted);
  console.log((await openai.files.retrieve(file.id)).filename);
  console.log("deleted:", (await openai.files.del(file.id)).deleted);
}

main();
