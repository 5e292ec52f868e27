// Every resource through Node's newest client; a failed assertion ends it with an error.
import assert from "node:assert/strict";
import OpenAI, { AzureOpenAI, toFile } from "openai";

const azure = process.argv[2] === "azure";
const client = azure
  ? new AzureOpenAI({ endpoint: process.env.AZURE_ROOT, apiVersion: "2024-05-01-preview" })
  : new OpenAI({ maxRetries: 0 });
const { assistants, threads } = client.beta;
const tools = [{ type: "code_interpreter" }];
const user = (content) => ({ role: "user", content });

async function walkAssistants() {
  const made = await assistants.create({ model: "gpt-4o", name: "Tutor", tools });
  assert.deepEqual(await assistants.retrieve(made.id), made);
  assert.equal((await assistants.update(made.id, { name: "Other" })).name, "Other");
  for (const name of ["a", "b", "c"]) await assistants.create({ model: "gpt-4o", name });
  const names = [];
  for await (const one of assistants.list({ limit: 2 })) {
    names.push(one.name);
    if (names.length === 4) break;
  }
  assert.deepEqual(names, ["c", "b", "a", "Other"]);
  assert.equal((await assistants.delete(made.id)).deleted, true);
}

async function walkThreads() {
  const thread = await threads.create({ messages: [user("First")] });
  const made = await threads.messages.create(thread.id, user("Second"));
  assert.deepEqual(await threads.messages.retrieve(made.id, { thread_id: thread.id }), made);
  const metadata = { a: "b" };
  const changed = await threads.messages.update(made.id, { thread_id: thread.id, metadata });
  assert.deepEqual(changed.metadata, metadata);
  assert.equal((await threads.messages.list(thread.id)).data.length, 2);
  await threads.messages.delete(made.id, { thread_id: thread.id });
  assert.deepEqual((await threads.update(thread.id, { metadata })).metadata, metadata);
  assert.equal((await threads.delete(thread.id)).deleted, true);
}

async function walkRuns() {
  const assistant = await assistants.create({ model: "gpt-4o", tools });
  const run = await threads.createAndRunPoll({
    assistant_id: assistant.id,
    thread: { messages: [user("Solve the equation")] },
  });
  assert.equal(run.status, "completed");
  const at = { thread_id: run.thread_id };
  assert.deepEqual(await threads.runs.retrieve(run.id, at), run);
  assert.equal((await threads.runs.list(run.thread_id)).data.length, 1);
  const steps = (await threads.runs.steps.list(run.id, at)).data;
  assert.deepEqual(steps.map((step) => step.type), ["message_creation", "tool_calls"]);
  const one = await threads.runs.steps.retrieve(steps[0].id, { ...at, run_id: run.id });
  assert.deepEqual(one, steps[0]);
}

async function walkFiles() {
  const content = "some notes";
  const file = await toFile(Buffer.from(content), "notes.txt");
  const made = await client.files.create({ file, purpose: "assistants" });
  assert.equal(made.bytes, content.length);
  assert.deepEqual(await client.files.retrieve(made.id), made);
  assert.equal(await (await client.files.content(made.id)).text(), content);
  assert.ok((await client.files.list()).data.some((other) => other.id === made.id));
  assert.equal((await client.files.delete(made.id)).deleted, true);
}

async function walkErrors() {
  await assert.rejects(assistants.retrieve("asst_none"), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.error.message, "No assistant found with id 'asst_none'.");
    assert.ok(error.requestID);
    return true;
  });
  await assert.rejects(assistants.create({}), OpenAI.BadRequestError);
}

await walkAssistants();
await walkThreads();
await walkRuns();
await walkFiles();
await walkErrors();
console.log("all is well");
