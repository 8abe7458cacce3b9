"""The store that the server starts itself: a Valkey on a unix socket in the data folder."""
