"""The associative memory and its persistence: least squares on one side, a log and snapshots on the other."""
