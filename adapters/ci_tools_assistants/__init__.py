"""The Assistants API, v2 and v1, on sessions of the service."""
