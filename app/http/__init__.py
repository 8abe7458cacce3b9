"""HTTP: routes, bodies, problem documents, middleware."""
