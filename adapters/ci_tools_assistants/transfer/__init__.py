"""Export and import of assistants and threads."""
