"""Rows: read, checked, stored as tables, and split."""
