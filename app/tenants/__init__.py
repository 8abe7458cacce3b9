"""The tenants' memories: loaded, changed through the store, expired, re-encoded."""
