"""Persistence of memories over the Redis protocol: log, snapshots, data keys. All of memory's I/O."""
