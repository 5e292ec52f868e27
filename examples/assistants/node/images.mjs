// Show the model images: one by its address, one that was uploaded, one in detail.
import fs from "node:fs";
import OpenAI from "openai";

const openai = new OpenAI();

const assistant = await openai.beta.assistants.create({ name: "Observer", model: "gpt-4o" });

const file = await openai.files.create({
  file: fs.createReadStream("myimage.png"),
  purpose: "vision",
});
let thread = await openai.beta.threads.create({
  messages: [
    {
      role: "user",
      content: [
        { type: "text", text: "What is the difference between these images?" },
        { type: "image_url", image_url: { url: "https://example.com/image.png" } },
        { type: "image_file", image_file: { file_id: file.id } },
      ],
    },
  ],
});
let run = await openai.beta.threads.runs.createAndPoll(thread.id, { assistant_id: assistant.id });
console.log(run.status);

thread = await openai.beta.threads.create({
  messages: [
    {
      role: "user",
      content: [
        { type: "text", text: "What is this an image of?" },
        {
          type: "image_url",
          image_url: { url: "https://example.com/image.png", detail: "high" },
        },
      ],
    },
  ],
});
run = await openai.beta.threads.runs.createAndPoll(thread.id, { assistant_id: assistant.id });
const messages = await openai.beta.threads.messages.list(thread.id);
console.log(messages.data[0].content[0].text.value);
