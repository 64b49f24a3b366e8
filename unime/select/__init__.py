"""Which candidates are trained on, by the judge's scores."""
