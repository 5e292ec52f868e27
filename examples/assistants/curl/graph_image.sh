#!/bin/sh
# Let the assistant draw, and download the image that its message shows.
set -eu
first_id() { grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }
status() { grep -o '"status": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }

assistant=$(curl -sS "$OPENAI_BASE_URL/assistants" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v2" \
  -d '{
    "instructions": "You are a personal math tutor. Write and run code to answer math questions.",
    "tools": [{ "type": "code_interpreter" }],
    "model": "gpt-4o"
  }' | first_id)

made=$(curl -sS "$OPENAI_BASE_URL/threads/runs" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v2" \
  -d '{
    "assistant_id": "'"$assistant"'",
    "thread": {
      "messages": [{"role": "user", "content": "Draw a graph of y = x squared from -5 to 5."}]
    }
  }')
run=$(echo "$made" | first_id)
thread=$(echo "$made" | grep -o '"thread_id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4)

state=queued
while [ "$state" = queued ] || [ "$state" = in_progress ]; do
  sleep 0.2
  state=$(curl -sS "$OPENAI_BASE_URL/threads/$thread/runs/$run" \
    -H "Authorization: Bearer $OPENAI_API_KEY" \
    -H "OpenAI-Beta: assistants=v2" | status)
done

messages=$(curl -sS "$OPENAI_BASE_URL/threads/$thread/messages?limit=1" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "OpenAI-Beta: assistants=v2")
echo "$messages"

image=$(echo "$messages" | grep -o '"file_id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4)
curl -sS "$OPENAI_BASE_URL/files/$image/content" \
  -H "Authorization: Bearer $OPENAI_API_KEY" --output my-image.png
