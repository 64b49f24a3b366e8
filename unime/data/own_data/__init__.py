"""`unime data FOLDER`: a folder of images and captions becomes a recipe."""
