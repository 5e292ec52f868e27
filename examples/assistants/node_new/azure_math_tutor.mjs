// The math tutor as a client of Azure's: its own addresses, key and versions.
import { AzureOpenAI } from "openai";

const assistantsClient = new AzureOpenAI({
  endpoint: process.env.AZURE_OPENAI_ENDPOINT,
  apiVersion: "2024-05-01-preview",
  apiKey: process.env.AZURE_OPENAI_API_KEY,
});

const assistantResponse = await assistantsClient.beta.assistants.create({
  model: "gpt-4-1106-preview",
  name: "Math Tutor",
  instructions: "You are a personal math tutor. Write and run code to answer math questions.",
  tools: [{ type: "code_interpreter" }],
});
console.log(`Assistant created: ${JSON.stringify(assistantResponse)}`);

const assistantThread = await assistantsClient.beta.threads.create({});
console.log(`Thread created: ${JSON.stringify(assistantThread)}`);

const threadResponse = await assistantsClient.beta.threads.messages.create(assistantThread.id, {
  role: "user",
  content: "I need to solve the equation `3x + 11 = 14`. Can you help me?",
});
console.log(`Message created: ${JSON.stringify(threadResponse)}`);

const runResponse = await assistantsClient.beta.threads.runs.createAndPoll(
  assistantThread.id,
  { assistant_id: assistantResponse.id },
  { pollIntervalMs: 500 },
);
console.log(`Run created: ${JSON.stringify(runResponse)}`);

const runMessages = await assistantsClient.beta.threads.messages.list(assistantThread.id);
for await (const runMessageDatum of runMessages) {
  for (const item of runMessageDatum.content) {
    if (item.type === "text") {
      console.log(`Message content: ${JSON.stringify(item.text?.value)}`);
    }
  }
}
