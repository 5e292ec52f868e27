#!/bin/sh
# The math tutor over plain HTTP, in version 1.
set -eu
first_id() { grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }
status() { grep -o '"status": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }

assistant=$(curl -sS "$OPENAI_BASE_URL/assistants" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v1" \
  -d '{
    "instructions": "You are a personal math tutor. Write and run code to answer math questions.",
    "name": "Math Tutor",
    "tools": [{"type": "code_interpreter"}],
    "model": "gpt-4"
  }' | first_id)

thread=$(curl -sS "$OPENAI_BASE_URL/threads" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v1" \
  -d '' | first_id)

curl -sS "$OPENAI_BASE_URL/threads/$thread/messages" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v1" \
  -d '{
    "role": "user",
    "content": "I need to solve the equation `3x + 11 = 14`. Can you help me?"
  }' > /dev/null

run=$(curl -sS "$OPENAI_BASE_URL/threads/$thread/runs" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v1" \
  -d '{
    "assistant_id": "'"$assistant"'",
    "instructions": "Please address the user as Jane Doe. The user has a premium account."
  }' | first_id)

state=queued
while [ "$state" = queued ] || [ "$state" = in_progress ]; do
  sleep 0.2
  state=$(curl -sS "$OPENAI_BASE_URL/threads/$thread/runs/$run" \
    -H "Authorization: Bearer $OPENAI_API_KEY" \
    -H "OpenAI-Beta: assistants=v1" | status)
done

curl -sS "$OPENAI_BASE_URL/threads/$thread/messages" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v1"
echo
curl -sS "$OPENAI_BASE_URL/threads/$thread/runs/$run/steps" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v1"
echo
