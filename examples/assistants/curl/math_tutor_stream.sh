#!/bin/sh
# A thread and its run in one request, streamed as server-sent events.
set -eu
first_id() { grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }

assistant=$(curl -sS "$OPENAI_BASE_URL/assistants" \
  -H "Content-Type: application/json" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "OpenAI-Beta: assistants=v2" \
  -d '{
    "instructions": "You are a personal math tutor. Write and run code to answer math questions.",
    "name": "Math Tutor",
    "tools": [{"type": "code_interpreter"}],
    "model": "gpt-4o"
  }' | first_id)

curl -sSN "$OPENAI_BASE_URL/threads/runs" \
  -H "Content-Type: application/json" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "OpenAI-Beta: assistants=v2" \
  -d '{
    "assistant_id": "'"$assistant"'",
    "thread": {
      "messages": [
        {
          "role": "user",
          "content": "I need to solve the equation `3x + 11 = 14`. Can you help me?"
        }
      ]
    },
    "stream": true
  }'
