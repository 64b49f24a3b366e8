"""The offline world: pictures, texts and tasks with known truth, generated from scene graphs.

The pieces, for whoever builds on them (everything is seeded by a `numpy.random.Generator`):

- `research.world.sample.sample_scene(rng, partition, ood=False, objects=(2, 5)) -> Scene`; partitions "base"
  (student pretraining), "judge", "train", "eval" never share an inventory of things; base and judge
  also share no sprite and no wording.
- `research.world.render.render(scene) -> uint8 (64, 64, 3)`.
- `research.world.language.caption(scene, rng, partition, ...) -> Caption(text, spec)`;
  `research.world.language.statement(scene, rng, partition) -> (text, is_true, kind)`: yes/no statements, the
  false ones hard negatives (one word changed, two exchanged).
- `research.world.questions.questions(scene, rng, partition) -> list[(question, answer, kind)]`: colour, shape,
  size, texture, position, background, count, relation, existence, related (the last two yes/no).
- `research.world.scene.matches(spec, scene) -> bool`: the truth about a text and a picture.

Texts are lower case, with spaces round punctuation. `python -m research.world build RECIPE` writes the data
sets, `python -m research.world baselines RECIPE` scores the reference models that keep them honest.
"""
