"""Experiments of `larimar evaluate`: each takes a setup and gives figures, through the code that serves."""
