"""LangChain tools, agent middleware and a deepagents backend over one live session."""
