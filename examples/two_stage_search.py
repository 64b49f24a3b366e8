"""Two-stage search: the embedder looks at everything, the reranker at the fifty best.

python examples/two_stage_search.py EXPORT RERANKER FOLDER "what to look for"
"""

import sys
from pathlib import Path

from sentence_transformers import CrossEncoder, SentenceTransformer

export, reranker, folder, query = sys.argv[1:5]
embedder = SentenceTransformer(export)
photos = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".png"))

# First stage: one vector a photo, computed once for all queries to come.
documents = [{"image": str(path), "text": "Represent the given image"} for path in photos]
vectors = embedder.encode(documents, prompt_name="document", batch_size=16)
asked = f"Find me an everyday image that matches the given caption\n{query}"
similarities = embedder.similarity(
    embedder.encode([{"text": asked}], prompt_name="query"), vectors
)[0]
found = similarities.argsort(descending=True)[:50].tolist()

# Second stage: query and photo are read together, which is slower and sees more.
model = CrossEncoder(reranker)
scores = model.predict([({"text": asked}, {"image": str(photos[row])}) for row in found])
order = sorted(zip(scores.tolist(), found, strict=True), key=lambda pair: -pair[0])
for score, row in order[:10]:
    print(f"{score:.3f}  (first stage {similarities[row]:.3f})  {photos[row]}")
