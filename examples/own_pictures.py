"""Your own captioned pictures, from a folder to an exported model, without a recipe file.

    python examples/own_pictures.py my_photos runs/my_photos [steps]

The folder has a text file beside each picture, or a captions file. Each result is a folder below
`runs/my_photos`: killed or changed, the same command does only what is left. On a GPU, name any
vision-language model and judge of the Hub instead of the two tiny ones, and leave the sizes out.
"""

import sys

from unime import (
    Embedder, export_model, judge_candidates, load_data, mine_negatives, select_negatives,
    train_embedder,
)  # fmt: skip

folder, run, steps = sys.argv[1], sys.argv[2], int([*sys.argv, "100"][3])
sizes = {"dtype": "float32", "min_pixels": 4096, "max_pixels": 4096, "max_length": 256}
training = {
    "tune": "full",
    "max_steps": steps,
    "per_device_train_batch_size": 16,
    "learning_rate": 3e-4,
}
student, judge = {"id": "assets/student", **sizes}, {"id": "assets/judge", **sizes}

data = load_data(folder, f"{run}/data", dev_share=0.1)
first = train_embedder(data, student, f"{run}/warmup", **training)
mined = mine_negatives(data, first, f"{run}/mined", candidates=10)
judged = judge_candidates(mined, judge, f"{run}/judged")
rows = select_negatives(judged, f"{run}/rows", negatives=4)
trained = train_embedder(
    data, first, f"{run}/trained", rows=rows, losses=["info_nce", "soft_label"], **training
)
export = export_model(trained, f"{run}/export", title="my-pictures")

for result in (data, mined, judged, rows, trained, export):
    print(result)
pair = next(data.rows())
embedder = Embedder(export)
found = embedder.encode([pair["query"], *pair["positives"]])
print(embedder.similarity(found[:1], found[1:]))
