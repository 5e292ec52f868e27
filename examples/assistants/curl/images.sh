#!/bin/sh
# Show the model images: one by its address, one that was uploaded, one in detail.
set -eu
first_id() { grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }

assistant=$(curl -sS "$OPENAI_BASE_URL/assistants" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v2" \
  -d '{"name": "Observer", "model": "gpt-4o"}' | first_id)

file=$(curl -sS "$OPENAI_BASE_URL/files" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -F purpose="vision" \
  -F file="@myimage.png" | first_id)

thread=$(curl -sS "$OPENAI_BASE_URL/threads" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v2" \
  -d '{
    "messages": [
      {
        "role": "user",
        "content": [
          {
            "type": "text",
            "text": "What is the difference between these images?"
          },
          {
            "type": "image_url",
            "image_url": {"url": "https://example.com/image.png", "detail": "high"}
          },
          {
            "type": "image_file",
            "image_file": {"file_id": "'"$file"'"}
          }
        ]
      }
    ]
  }' | first_id)

curl -sSN "$OPENAI_BASE_URL/threads/$thread/runs" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v2" \
  -d '{
    "assistant_id": "'"$assistant"'",
    "stream": true
  }'
