"""`unime data FOLDER`: a folder of pictures and captions becomes a recipe."""
