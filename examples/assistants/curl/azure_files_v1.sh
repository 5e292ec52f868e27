#!/bin/sh
# Files (`file_ids`) at Azure's addresses: the date in `api-version` says that it is version 1.
set -eu
first_id() { grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }
status() { grep -o '"status": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }

file=$(curl -sS "$AZURE_OPENAI_ENDPOINT/openai/files?api-version=2024-02-15-preview" \
  -H "api-key: $AZURE_OPENAI_API_KEY" \
  -F purpose="assistants" \
  -F file="@mydata.csv" | first_id)

assistant=$(curl -sS "$AZURE_OPENAI_ENDPOINT/openai/assistants?api-version=2024-02-15-preview" \
  -H "api-key: $AZURE_OPENAI_API_KEY" \
  -H 'Content-Type: application/json' \
  -d '{
    "instructions": "You are an AI assistant that can write code to help answer math questions.",
    "tools": [
      { "type": "code_interpreter" }
    ],
    "model": "gpt-4-1106-preview",
    "file_ids": ["'"$file"'"]
  }' | first_id)

thread=$(curl -sS "$AZURE_OPENAI_ENDPOINT/openai/threads?api-version=2024-02-15-preview" \
  -H "api-key: $AZURE_OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -d '' | first_id)

curl -sS "$AZURE_OPENAI_ENDPOINT/openai/threads/$thread/messages?api-version=2024-02-15-preview" \
  -H "api-key: $AZURE_OPENAI_API_KEY" \
  -H 'Content-Type: application/json' \
  -d '{
    "role": "user",
    "content": "Shuffle the rows of the CSV file for me.",
    "file_ids": ["'"$file"'"]
  }' > /dev/null

run=$(curl -sS "$AZURE_OPENAI_ENDPOINT/openai/threads/$thread/runs?api-version=2024-02-15-preview" \
  -H "api-key: $AZURE_OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -d '{
    "assistant_id": "'"$assistant"'"
  }' | first_id)

state=queued
while [ "$state" = queued ] || [ "$state" = in_progress ]; do
  sleep 0.2
  url="$AZURE_OPENAI_ENDPOINT/openai/threads/$thread/runs/$run?api-version=2024-02-15-preview"
  state=$(curl -sS "$url" -H "api-key: $AZURE_OPENAI_API_KEY" | status)
done

messages=$(curl -sS \
  "$AZURE_OPENAI_ENDPOINT/openai/threads/$thread/messages?api-version=2024-02-15-preview&limit=1" \
  -H "api-key: $AZURE_OPENAI_API_KEY")
echo "$messages"

shuffled=$(echo "$messages" | grep -o '"file_ids": *\["[^"]*"' | cut -d '"' -f 4)
curl -sS "$AZURE_OPENAI_ENDPOINT/openai/files/$shuffled/content?api-version=2024-02-15-preview" \
  -H "api-key: $AZURE_OPENAI_API_KEY" \
  --output shuffled_file.csv
