#!/bin/sh
# The math tutor at Azure's addresses; not every request says a version.
set -eu
first_id() { grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }
status() { grep -o '"status": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }

assistant=$(curl -sS "$AZURE_OPENAI_ENDPOINT/openai/assistants?api-version=2024-05-01-preview" \
  -H "api-key: $AZURE_OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "instructions": "You are an AI assistant that can write code to help answer math questions.",
    "name": "Math Assist",
    "tools": [{"type": "code_interpreter"}],
    "model": "gpt-4-1106-preview"
  }' | first_id)

thread=$(curl -sS "$AZURE_OPENAI_ENDPOINT/openai/threads" \
  -H "Content-Type: application/json" \
  -H "api-key: $AZURE_OPENAI_API_KEY" \
  -d '' | first_id)

curl -sS "$AZURE_OPENAI_ENDPOINT/openai/threads/$thread/messages" \
  -H "Content-Type: application/json" \
  -H "api-key: $AZURE_OPENAI_API_KEY" \
  -d '{
      "role": "user",
      "content": "I need to solve the equation `3x + 11 = 14`. Can you help me?"
    }' > /dev/null

run=$(curl -sS "$AZURE_OPENAI_ENDPOINT/openai/threads/$thread/runs" \
  -H "api-key: $AZURE_OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "assistant_id": "'"$assistant"'"
  }' | first_id)

state=queued
while [ "$state" = queued ] || [ "$state" = in_progress ]; do
  sleep 0.2
  state=$(curl -sS "$AZURE_OPENAI_ENDPOINT/openai/threads/$thread/runs/$run" \
    -H "api-key: $AZURE_OPENAI_API_KEY" | status)
done

curl -sS "$AZURE_OPENAI_ENDPOINT/openai/threads/$thread/messages" \
  -H "Content-Type: application/json" \
  -H "api-key: $AZURE_OPENAI_API_KEY"
