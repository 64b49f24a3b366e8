"""What every stage stands on: recipes, files, processes, provenance; nothing of embeddings."""
