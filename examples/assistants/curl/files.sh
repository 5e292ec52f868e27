#!/bin/sh
# Upload a file, give it to an assistant (`file_ids` of version 1), shuffle it, download the result.
set -eu
first_id() { grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }
status() { grep -o '"status": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }

file=$(curl -sS "$OPENAI_BASE_URL/files" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -F purpose="assistants" \
  -F file="@mydata.csv" | first_id)

assistant=$(curl -sS "$OPENAI_BASE_URL/assistants" \
  -u :$OPENAI_API_KEY \
  -H 'Content-Type: application/json' \
  -H 'OpenAI-Beta: assistants=v1' \
  -d '{
    "instructions": "You are a data assistant. Write and run code to work on the user'"'"'s files.",
    "tools": [{"type": "code_interpreter"}],
    "model": "gpt-4",
    "file_ids": ["'"$file"'"]
  }' | first_id)

made=$(curl -sS "$OPENAI_BASE_URL/threads/runs" \
  -u :$OPENAI_API_KEY \
  -H 'Content-Type: application/json' \
  -H 'OpenAI-Beta: assistants=v1' \
  -d '{
    "assistant_id": "'"$assistant"'",
    "thread": {
      "messages": [{"role": "user", "content": "Shuffle the rows of the CSV file for me."}]
    }
  }')
run=$(echo "$made" | first_id)
thread=$(echo "$made" | grep -o '"thread_id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4)

state=queued
while [ "$state" = queued ] || [ "$state" = in_progress ]; do
  sleep 0.2
  state=$(curl -sS "$OPENAI_BASE_URL/threads/$thread/runs/$run" \
    -u :$OPENAI_API_KEY \
    -H 'OpenAI-Beta: assistants=v1' | status)
done

messages=$(curl -sS "$OPENAI_BASE_URL/threads/$thread/messages?limit=1" \
  -u :$OPENAI_API_KEY \
  -H 'OpenAI-Beta: assistants=v1')
echo "$messages"

shuffled=$(echo "$messages" | grep -o '"file_id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4)
curl -sS "$OPENAI_BASE_URL/files/$shuffled/content" \
  -H "Authorization: Bearer $OPENAI_API_KEY" --output shuffled_file.csv
