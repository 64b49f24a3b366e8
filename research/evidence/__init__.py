"""The evidence: every claim of the method as rows of tables, at several seeds, with intervals."""
