"""Evaluation: records of the editing benchmarks, the systems compared on them, and how they are scored."""
