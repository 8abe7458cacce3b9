"""`python -m app`: the command line; without arguments it serves."""

import sys

from app.cli import main

main(sys.argv[1:] or ["serve"])
