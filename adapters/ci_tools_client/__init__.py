"""A client of the HTTP face of sessions: what the service does, from another machine."""
