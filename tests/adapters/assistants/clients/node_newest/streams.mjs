// The stream helpers of a Node client: what their deltas add up to is what is stored.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const { assistants, threads } = client.beta;

// The clients before version 5 take ids one after the other.
const POSITIONAL = typeof client.files.del === "function";
const listSteps = (thread_id, run_id, query) =>
  POSITIONAL
    ? threads.runs.steps.list(thread_id, run_id, query)
    : threads.runs.steps.list(run_id, { thread_id, ...query });
const getRun = (thread_id, run_id) =>
  POSITIONAL
    ? threads.runs.retrieve(thread_id, run_id)
    : threads.runs.retrieve(run_id, { thread_id });
const submit = (thread_id, run_id, tool_outputs) =>
  POSITIONAL
    ? threads.runs.submitToolOutputsStream(thread_id, run_id, { tool_outputs })
    : threads.runs.submitToolOutputsStream(run_id, { thread_id, tool_outputs });

function withoutIndex(value) {
  if (Array.isArray(value)) return value.map(withoutIndex);
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value).filter(([key]) => key !== "index");
  return Object.fromEntries(entries.map(([key, one]) => [key, withoutIndex(one)]));
}

function follow(stream) {
  const sums = { messages: {}, steps: {}, text: "", calls: [] };
  stream
    .on("messageDelta", (_, snapshot) => {
      sums.messages[snapshot.id] = withoutIndex(snapshot.content);
    })
    .on("runStepDelta", (_, snapshot) => {
      sums.steps[snapshot.id] = withoutIndex(snapshot.step_details);
    })
    .on("textDelta", (delta) => (sums.text += delta.value ?? ""))
    .on("toolCallCreated", (call) => sums.calls.push(`${call.type} created`))
    .on("toolCallDone", (call) => sums.calls.push(`${call.type} done`))
    .on("textCreated", () => sums.calls.push("text created"))
    .on("textDone", () => sums.calls.push("text done"))
    .on("messageDone", () => sums.calls.push("message done"));
  return sums;
}

async function assertStored(sums, run) {
  const steps = (await listSteps(run.thread_id, run.id, { order: "asc" })).data;
  const calls = steps.filter((step) => step.type === "tool_calls");
  assert.deepEqual(sums.steps, Object.fromEntries(calls.map((s) => [s.id, s.step_details])));
  const messages = (await threads.messages.list(run.thread_id, { run_id: run.id })).data;
  assert.deepEqual(sums.messages, Object.fromEntries(messages.map((m) => [m.id, m.content])));
  return steps;
}

async function streamCode() {
  const assistant = await assistants.create({
    model: "gpt-4o",
    tools: [{ type: "code_interpreter" }],
  });
  const thread = await threads.create({
    messages: [{ role: "user", content: "Solve the equation" }],
  });
  const stream = threads.runs.stream(thread.id, { assistant_id: assistant.id });
  const sums = follow(stream);
  const run = await stream.finalRun();
  const finals = await stream.finalRunSteps();
  assert.equal(run.status, "completed");
  assert.deepEqual(await assertStored(sums, run), finals);
  assert.deepEqual(await getRun(thread.id, run.id), run);
  assert.deepEqual(sums.calls, [
    "code_interpreter created",
    "code_interpreter done",
    "text created",
    "text done",
    "message done",
  ]);
}

async function streamFunctions() {
  const tools = ["getCurrentWeather", "getNickname"].map((name) => ({
    type: "function",
    function: { name, parameters: { type: "object", properties: {} } },
  }));
  const assistant = await assistants.create({ model: "gpt-4o", tools });
  const thread = await threads.create({ messages: [{ role: "user", content: "The weather?" }] });
  const first = threads.runs.stream(thread.id, { assistant_id: assistant.id });
  const asked = follow(first);
  const run = await first.finalRun();
  assert.equal(run.status, "requires_action");
  await assertStored(asked, run);
  const calls = run.required_action.submit_tool_outputs.tool_calls;
  const outputs = calls.map((call) => ({ tool_call_id: call.id, output: call.function.name }));
  const second = submit(thread.id, run.id, outputs);
  const told = follow(second);
  assert.equal((await second.finalRun()).status, "completed");
  const expected = "It is getCurrentWeather in Los Angeles today, which people call getNickname.";
  assert.equal(told.text, expected);
}

async function streamThread() {
  const assistant = await assistants.create({ model: "gpt-4o" });
  const stream = threads.createAndRunStream({
    assistant_id: assistant.id,
    thread: { messages: [{ role: "user", content: "Hello" }] },
  });
  const names = [];
  for await (const event of stream) names.push(event.event);
  assert.equal(names[0], "thread.created");
  assert.equal(names.at(-1), "thread.run.completed");
}

await streamCode();
await streamFunctions();
await streamThread();
console.log("all is well");
