// What the quickstart application did, server and page in one: streams go on to the page as they
// are, links in messages become links to the application, which passes files on.
import fs from "node:fs";
import http from "node:http";
import { Readable } from "node:stream";
import OpenAI from "openai";
import { AssistantStream } from "openai/lib/AssistantStream";

const openai = new OpenAI();

const file = await openai.files.create({
  file: fs.createReadStream("mydata.csv"),
  purpose: "assistants",
});
const assistant = await openai.beta.assistants.create({
  instructions: "You are a helpful assistant.",
  name: "Quickstart Assistant",
  model: "gpt-4o",
  tools: [
    { type: "code_interpreter" },
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "Determine weather in my location",
        parameters: {
          type: "object",
          properties: {
            location: { type: "string", description: "The city and state e.g. San Francisco, CA" },
            unit: { type: "string", enum: ["c", "f"] },
          },
          required: ["location"],
        },
      },
    },
  ],
  tool_resources: { code_interpreter: { file_ids: [file.id] } },
});

// The routes of the server, by how their paths begin.
const routes = {
  "/threads": async () => {
    const thread = await openai.beta.threads.create();
    return Response.json({ threadId: thread.id });
  },
  "/messages": async ({ threadId, content }) => {
    await openai.beta.threads.messages.create(threadId, { role: "user", content });
    const stream = openai.beta.threads.runs.stream(threadId, { assistant_id: assistant.id });
    return new Response(stream.toReadableStream());
  },
  "/actions": async ({ threadId, runId, toolCallOutputs }) => {
    const stream = openai.beta.threads.runs.submitToolOutputsStream(runId, {
      thread_id: threadId,
      tool_outputs: toolCallOutputs,
    });
    return new Response(stream.toReadableStream());
  },
  "/files": async ({ fileId }) => {
    const [found, content] = await Promise.all([
      openai.files.retrieve(fileId),
      openai.files.content(fileId),
    ]);
    return new Response(Readable.from(Buffer.from(await content.arrayBuffer())), {
      headers: { "Content-Disposition": `attachment; filename="${found.filename}"` },
    });
  },
};

const server = http.createServer(async (request, response) => {
  const body = Buffer.concat(await Readable.from(request).toArray()).toString();
  const answer = await routes[request.url](JSON.parse(body));
  response.writeHead(answer.status, Object.fromEntries(answer.headers));
  Readable.fromWeb(answer.body).pipe(response);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

const post = (path, body) =>
  fetch(`http://127.0.0.1:${server.address().port}${path}`, {
    method: "POST",
    body: JSON.stringify(body),
  });

// The page.
const messages = [];
const append = (role, text) => messages.push({ role, text });
const appendToLast = (text) => (messages.at(-1).text += text);

function annotateLast(annotations) {
  for (const annotation of annotations) {
    if (annotation.type !== "file_path") continue;
    const last = messages.at(-1);
    last.text = last.text.replaceAll(annotation.text, `/files/${annotation.file_path.file_id}`);
  }
}

async function read(threadId, response) {
  const stream = AssistantStream.fromReadableStream(response.body);
  let action;
  stream.on("textCreated", () => append("assistant", ""));
  stream.on("textDelta", (delta) => {
    if (delta.value != null) appendToLast(delta.value);
    if (delta.annotations != null) annotateLast(delta.annotations);
  });
  stream.on("imageFileDone", (image) => appendToLast(`\n![image](/files/${image.file_id})\n`));
  stream.on("toolCallCreated", (toolCall) => {
    if (toolCall.type === "code_interpreter") append("code", "");
  });
  stream.on("toolCallDelta", (delta) => {
    if (delta.type === "code_interpreter" && delta.code_interpreter.input) {
      appendToLast(delta.code_interpreter.input);
    }
  });
  stream.on("event", (event) => {
    if (event.event === "thread.run.requires_action") action = event.data;
  });
  await stream.done();
  if (!action) return;
  const toolCallOutputs = action.required_action.submit_tool_outputs.tool_calls.map((toolCall) => ({
    output: "22C",
    tool_call_id: toolCall.id,
  }));
  await read(threadId, await post("/actions", { threadId, runId: action.id, toolCallOutputs }));
}

const { threadId } = await (await post("/threads", {})).json();
for (const content of [
  "Shuffle the rows of the CSV file for me.",
  "Draw a graph of y = x squared from -5 to 5.",
  "What's the weather in San Francisco?",
]) {
  append("user", content);
  await read(threadId, await post("/messages", { threadId, content }));
}
for (const { role, text } of messages) console.log(`${role}: ${text}`);

const page = messages.map(({ text }) => text).join("\n");
for (const [, fileId] of page.matchAll(/\(\/files\/([^)]+)\)/g)) {
  const download = await post("/files", { fileId });
  const name = download.headers.get("content-disposition").match(/filename="(.+)"/)[1];
  console.log(`downloaded: ${name}`);
  fs.writeFileSync(name, Buffer.from(await download.arrayBuffer()));
}
server.close();
server.closeAllConnections();
