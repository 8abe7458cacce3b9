"""Where memories outlive the process: log, snapshots, data keys, over the Redis protocol. All of memory's I/O."""
