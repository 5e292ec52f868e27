#!/bin/sh
# Two functions that the assistant calls in parallel; their outputs are submitted together.
set -eu
first_id() { grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }
status() { grep -o '"status": *"[^"]*"' | head -n 1 | cut -d '"' -f 4; }

assistant=$(curl -sS "$OPENAI_BASE_URL/assistants" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v1" \
  -d '{
    "instructions": "You are a weather bot. Use the provided functions to answer questions.",
    "tools": [{
      "type": "function",
      "function": {
        "name": "getCurrentWeather",
        "description": "Get the weather in location",
        "parameters": {
          "type": "object",
          "properties": {
            "location": {"type": "string", "description": "The city and state e.g. San Francisco, CA"},
            "unit": {"type": "string", "enum": ["c", "f"]}
          },
          "required": ["location"]
        }
      }
    },
    {
      "type": "function",
      "function": {
        "name": "getNickname",
        "description": "Get the nickname of a city",
        "parameters": {
          "type": "object",
          "properties": {
            "location": {"type": "string", "description": "The city and state e.g. San Francisco, CA"}
          },
          "required": ["location"]
        }
      }
    }],
    "model": "gpt-4-1106-preview"
  }' | first_id)

made=$(curl -sS "$OPENAI_BASE_URL/threads/runs" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v1" \
  -d '{
    "assistant_id": "'"$assistant"'",
    "thread": {
      "messages": [{
        "role": "user",
        "content": "What is the weather in Los Angeles today, and what do people call the city?"
      }]
    }
  }')
run=$(echo "$made" | first_id)
thread=$(echo "$made" | grep -o '"thread_id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4)

wait_for_run() {
  state=queued
  while [ "$state" = queued ] || [ "$state" = in_progress ]; do
    sleep 0.2
    answer=$(curl -sS "$OPENAI_BASE_URL/threads/$thread/runs/$run" \
      -H "Authorization: Bearer $OPENAI_API_KEY" \
      -H "OpenAI-Beta: assistants=v1")
    state=$(echo "$answer" | status)
  done
}

wait_for_run
calls=$(echo "$answer" | grep -o 'call_[A-Za-z0-9]*' | uniq)
weather=$(echo "$calls" | sed -n 1p)
nickname=$(echo "$calls" | sed -n 2p)

curl -sS "$OPENAI_BASE_URL/threads/$thread/runs/$run/submit_tool_outputs" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "Content-Type: application/json" \
  -H "OpenAI-Beta: assistants=v1" \
  -d '{
    "tool_outputs": [{
      "tool_call_id": "'"$weather"'",
      "output": "22C"
    }, {
      "tool_call_id": "'"$nickname"'",
      "output": "LA"
    }]
  }' > /dev/null

wait_for_run
curl -sS "$OPENAI_BASE_URL/threads/$thread/messages?limit=1" \
  -H "Authorization: Bearer $OPENAI_API_KEY" \
  -H "OpenAI-Beta: assistants=v1"
echo
