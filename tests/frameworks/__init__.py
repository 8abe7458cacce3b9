"""Frameworks speak to a real server on loopback. They live in an environment of their own: they want an older OpenAI client."""
