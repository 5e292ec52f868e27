"""Assistants, threads and messages, and the files attached to them."""
