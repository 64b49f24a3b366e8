"""A model for people who do not know us: folder, card, checks, upload."""
