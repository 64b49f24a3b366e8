"""Models under evaluation: one module a kind."""
