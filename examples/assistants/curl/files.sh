#!/bin/sh
# Give a file to an assistant and to a message, shuffle its rows, download the result.
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
  -H 'OpenAI-Beta: assistants=v2' \
  -d '{
    "instructions": "You are a data assistant. Write and run code to work on files of your user.",
    "tools": [{"type": "code_interpreter"}],
    "model": "gpt-4o",
    "tool_resources": {
      "code_interpreter": {
        "file_ids": ["'"$file"'"]
      }
    }
  }' | first_id)

thread=$(curl -sS "$OPENAI_BASE_URL/threads" \
  -H "Content-Type: application/json" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "OpenAI-Beta: assistants=v2" \
  -d '' | first_id)

# Once more for this thread alone: code finds it under its name all the same.
curl -sS "$OPENAI_BASE_URL/threads/$thread/messages" \
  -u :$OPENAI_API_KEY \
  -H 'Content-Type: application/json' \
  -H 'OpenAI-Beta: assistants=v2' \
  -d '{
    "role": "user",
    "content": "Shuffle the rows of the CSV file for me.",
    "attachments": [
      {
        "file_id": "'"$file"'",
        "tools": [{"type": "code_interpreter"}]
      }
    ]
  }' > /dev/null

run=$(curl -sS "$OPENAI_BASE_URL/threads/$thread/runs" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v2" \
  -d '{
    "assistant_id": "'"$assistant"'"
  }' | first_id)

state=queued
while [ "$state" = queued ] || [ "$state" = in_progress ]; do
  sleep 0.2
  state=$(curl -sS "$OPENAI_BASE_URL/threads/$thread/runs/$run" \
    -H "Authorization: Bearer $OPENAI_API_KEY" \
    -H "OpenAI-Beta: assistants=v2" | status)
done

curl -sS "$OPENAI_BASE_URL/threads/$thread/runs/$run/steps" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "OpenAI-Beta: assistants=v2"
echo

messages=$(curl -sS "$OPENAI_BASE_URL/threads/$thread/messages?limit=1" \
  -H "Content-Type: application/json" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "OpenAI-Beta: assistants=v2")
echo "$messages"

shuffled=$(echo "$messages" | grep -o '"file_id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4)
curl -sS "$OPENAI_BASE_URL/files/$shuffled/content" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  --output shuffled_file.csv
