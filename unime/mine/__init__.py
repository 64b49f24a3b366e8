"""Global candidates: exact search over whole tasks, and clusters of rows."""
