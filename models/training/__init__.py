"""Training, and what is trained on. No server imports it."""
