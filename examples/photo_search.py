"""Search a folder of photos by text, then the captions by a photo, with a faiss index.

python examples/photo_search.py EXPORT FOLDER "what to look for"
"""

import sys
from pathlib import Path

import faiss
from sentence_transformers import SentenceTransformer

export, folder, query = sys.argv[1:4]
model = SentenceTransformer(export)

# Text to image: pictures are documents, the query carries the task's instruction.
photos = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".png"))
instruction = "Represent the given image"
documents = [{"image": str(path), "text": instruction} for path in photos]
vectors = model.encode(documents, prompt_name="document", batch_size=16)
index = faiss.IndexFlatIP(vectors.shape[1])  # vectors have length 1: inner product is cosine
index.add(vectors)

asked = {"text": f"Find me an everyday image that matches the given caption\n{query}"}
similarities, rows = index.search(model.encode([asked], prompt_name="query"), k=min(3, len(photos)))
for similarity, row in zip(similarities[0], rows[0], strict=True):
    print(f"{similarity:.3f}  {photos[row]}")

# Image to text: the other way round.
captions = [query, "a recipe for bread", "two dogs on a beach"]
texts = model.encode([{"text": caption} for caption in captions], prompt_name="document")
photo = {
    "image": str(photos[rows[0][0]]),
    "text": "Find an image caption describing the given everyday image",
}
scores = model.similarity(model.encode([photo], prompt_name="query"), texts)[0]
for score, caption in sorted(zip(scores.tolist(), captions, strict=True), reverse=True):
    print(f"{score:.3f}  {caption}")
