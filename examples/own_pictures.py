"""Your own captioned pictures, from a folder to an exported model, without a recipe file.

    python examples/own_pictures.py my_photos runs/my_photos [steps]

The folder has a text file beside each picture, or a captions file. Each result is a folder below
`runs/my_photos`: killed, the same command carries on; done, it returns at once. On a GPU, name any
vision-language model and judge of the Hub instead of the two tiny ones, and leave the sizes out.
"""

import sys

from unime import (
    Embedder,
    export_model,
    judge_candidates,
    load_data,
    mine_negatives,
    select_negatives,
    train_embedder,
)

folder, run, steps = sys.argv[1], sys.argv[2], int([*sys.argv, "100"][3])
sizes = {"dtype": "float32", "min_pixels": 4096, "max_pixels": 4096, "max_length": 256}
student, judge = {"id": "assets/student", **sizes}, {"id": "assets/judge", **sizes}

data = load_data(folder, f"{run}/data", dev_share=0.1)
first = train_embedder(
    data, student, f"{run}/warmup", tune="full", max_steps=steps, learning_rate=5e-4
)
mined = mine_negatives(data, first, f"{run}/mined", candidates=10)
judged = judge_candidates(mined, judge, f"{run}/judged")
rows = select_negatives(judged, f"{run}/rows", negatives=4)
losses = ["info_nce", "soft_label"]
trained = train_embedder(
    data, first, f"{run}/trained", rows=rows, losses=losses, tune="full", max_steps=steps
)
export = export_model(trained, f"{run}/export", title="my-pictures")

for result in (data, mined, judged, rows, trained, export):
    print(result)
queries = Embedder(export).encode(["a red circle"], instruction="Find the image that shows this")
print(queries.shape)
