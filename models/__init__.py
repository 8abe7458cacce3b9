"""Encoder, value code, prefix and decoder: everything that turns text into codes and codes into text."""
