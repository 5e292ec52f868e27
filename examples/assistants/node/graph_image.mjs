// Let the assistant draw, and download the image that its message shows.
import fs from "node:fs";
import OpenAI from "openai";

const openai = new OpenAI();

async function main() {
  const assistant = await openai.beta.assistants.create({
    instructions: "You are a personal math tutor. Write and run code to answer math questions.",
    model: "gpt-4o",
    tools: [{ type: "code_interpreter" }],
  });

  const thread = await openai.beta.threads.create({
    messages: [{ role: "user", content: "Draw a graph of y = x squared from -5 to 5." }],
  });

  const run = await openai.beta.threads.runs.createAndPoll(thread.id, {
    assistant_id: assistant.id,
  });
  if (run.status !== "completed") throw new Error(JSON.stringify(run.last_error));

  const messages = await openai.beta.threads.messages.list(thread.id);
  for (const part of messages.data[0].content) {
    if (part.type === "image_file") {
      const response = await openai.files.content(part.image_file.file_id);

      // Extract the binary data from the Response object
      const image_data = await response.arrayBuffer();

      // Convert the binary data to a Buffer
      const image_data_buffer = Buffer.from(image_data);

      // Save the image to a specific location
      fs.writeFileSync("./my-image.png", image_data_buffer);
      console.log(`my-image.png: ${image_data_buffer.length} bytes`);
    } else {
      console.log(part.text.value);
    }
  }
}

main();
