"""Decoding: the frozen decoder, continuous batching, sampling, the pointer."""
