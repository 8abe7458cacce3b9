"""Who may use the server, and what they did: API keys, limits, audit log."""
