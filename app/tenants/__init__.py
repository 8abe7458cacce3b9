"""The tenants' memories: held, changed through the store, expired, moved."""
