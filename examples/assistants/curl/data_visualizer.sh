#!/bin/sh
# Draw what a file of the assistant shows, by code that it writes.
set -eu
first_id() { grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }
status() { grep -o '"status": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }

file=$(curl -sS "$OPENAI_BASE_URL/files" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -F purpose="assistants" \
  -F file="@mydata.csv" | first_id)

assistant=$(curl -sS "$OPENAI_BASE_URL/assistants" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v2" \
  -d '{
    "name": "Data visualizer",
    "description": "Draws what the data in .csv files shows, and says it in a few words.",
    "model": "gpt-4o",
    "tools": [{"type": "code_interpreter"}],
    "tool_resources": {
      "code_interpreter": {
        "file_ids": ["'"$file"'"]
      }
    }
  }' | first_id)

thread=$(curl -sS "$OPENAI_BASE_URL/threads" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v2" \
  -d '{
    "messages": [
      {
        "role": "user",
        "content": "Create 3 data visualizations based on the trends in this file.",
        "attachments": [
          {
            "file_id": "'"$file"'",
            "tools": [{"type": "code_interpreter"}]
          }
        ]
      }
    ]
  }' | first_id)

run=$(curl -sS "$OPENAI_BASE_URL/threads/$thread/runs" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v2" \
  -d '{
    "assistant_id": "'"$assistant"'",
    "model": "gpt-4o",
    "instructions": "New instructions that override the Assistant instructions",
    "tools": [{"type": "code_interpreter"}, {"type": "file_search"}]
  }' | first_id)

state=queued
while [ "$state" = queued ] || [ "$state" = in_progress ]; do
  sleep 0.2
  state=$(curl -sS "$OPENAI_BASE_URL/threads/$thread/runs/$run" \
    -H "Authorization: Bearer $OPENAI_API_KEY" \
    -H "OpenAI-Beta: assistants=v2" | status)
done

curl -sS "$OPENAI_BASE_URL/threads/$thread/messages?limit=1" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "OpenAI-Beta: assistants=v2"
echo "$state"
