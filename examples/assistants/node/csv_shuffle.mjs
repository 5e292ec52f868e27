// Shuffle the rows of a CSV file, and download the result from the link in the message.
import fs from "node:fs";
import OpenAI from "openai";

const openai = new OpenAI();

async function main() {
  const file = await openai.files.create({
    file: fs.createReadStream("mydata.csv"),
    purpose: "assistants",
  });

  const assistant = await openai.beta.assistants.create({
    instructions: "You are a data assistant. Write and run code to work on the user's files.",
    model: "gpt-4o",
    tools: [{ type: "code_interpreter" }],
    tool_resources: { code_interpreter: { file_ids: [file.id] } },
  });

  const thread = await openai.beta.threads.create({
    messages: [{ role: "user", content: "Shuffle the rows of the CSV file for me." }],
  });

  const run = await openai.beta.threads.runs.createAndPoll(thread.id, {
    assistant_id: assistant.id,
  });
  if (run.status !== "completed") throw new Error(JSON.stringify(run.last_error));

  const messages = await openai.beta.threads.messages.list(thread.id);
  const text = messages.data[0].content[0].text;
  console.log(text.value);

  for (const annotation of text.annotations) {
    if (annotation.type !== "file_path") continue;
    console.log(annotation.text, annotation.start_index, annotation.end_index);
    const response = await openai.files.content(annotation.file_path.file_id);
    fs.writeFileSync("shuffled_file.csv", Buffer.from(await response.arrayBuffer()));
  }
}

main();
