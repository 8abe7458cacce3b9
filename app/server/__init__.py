"""The process: assembled, configured, measured, logged."""
