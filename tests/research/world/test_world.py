"""The world itself: same pixels everywhere, partitions that share nothing, words that are true."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research.world import compositional, sprites, words
from research.world.language import CORRUPTIONS, caption, corrupt, statement
from research.world.questions import questions
from research.world.render import render
from research.world.sample import (
    PARTITIONS,
    is_held_colour,
    partition_of,
    sample_scene,
    sprite_names,
)
from research.world.scene import OPPOSITE, SHAPES, Spec, holds, matches, relations

seeds = st.integers(0, 10_000)
partitions = st.sampled_from(PARTITIONS)


def scene_of(seed, partition="eval", **options):
    return sample_scene(np.random.default_rng(seed), partition, **options)


def test_pixels_are_pinned():
    hasher = hashlib.sha256()
    for seed in range(40):
        hasher.update(render(scene_of(seed, ood=seed % 2 == 1)).tobytes())
    assert hasher.hexdigest() == "7038a0e8177f5d8e9115b2f641d6f4ee32e2868baaf7657c910ba4962ac6fc69"


def test_every_sprite_and_shape_can_be_seen():
    assert 200 <= len(sprites.load()) <= 400
    assert not set(sprites.load()) & set(SHAPES)
    for rgba in sprites.load().values():
        assert (rgba[..., 3] > 127).mean() > 0.1


@given(seed=seeds, partition=partitions, ood=st.booleans())
@settings(max_examples=60, deadline=None)
def test_scenes_stay_in_their_partition(seed, partition, ood):
    scene = scene_of(seed, partition, ood=ood)
    assert partition_of(scene) == partition
    held = set(sprite_names("eval", held=True))
    novel = [t for t in scene.things if t.kind in held or is_held_colour(t.kind, t.colour)]
    novel = [t for t in novel if t.is_sprite]
    assert bool(novel) == ood


def test_student_and_judge_share_neither_sprites_nor_wordings():
    assert sprite_names("base") and sprite_names("judge")
    assert not set(sprite_names("base")) & set(sprite_names("judge"))
    held = set(sprite_names("eval", held=True))
    assert not held & {name for p in PARTITIONS for name in sprite_names(p)}
    tables = [words.LISTS, words.RELATED, words.PLACED, words.COUNTED, words.GROUNDED]
    for table in [*tables, *words.QUESTIONS.values()]:
        groups = [set(table[group]) for group in ("base", "judge", "held")]
        assert sum(map(len, groups)) == len(set.union(*groups))
    captions = [len(table[group]) for table in tables for group in ("base", "judge")]
    assert sum(captions) + sum(len(table["held"]) for table in tables) >= 40
    assert sum(captions) == sum(len(table["held"]) for table in tables)


@given(seed=seeds, partition=partitions, held=st.booleans())
@settings(max_examples=150, deadline=None)
def test_captions_are_true_and_corruptions_false(seed, partition, held):
    rng = np.random.default_rng(seed)
    scene = scene_of(seed, partition)
    said = caption(scene, rng, partition, held=held)
    assert matches(said.spec, scene)
    assert "{" not in said.text
    for how in CORRUPTIONS:
        wrong = corrupt(said.spec, scene, rng, how)
        assert wrong is None or not matches(wrong, scene)


def test_statements_are_true_as_often_as_false():
    rng = np.random.default_rng(0)
    told = [statement(scene_of(seed, "judge"), rng, "judge") for seed in range(400)]
    assert 160 < sum(true for _, true, _ in told) < 240
    assert len({kind for _, _, kind in told}) > 8


@given(seed=seeds)
@settings(max_examples=60, deadline=None)
def test_relations_follow_from_places(seed):
    scene = scene_of(seed)
    found = set(relations(scene))
    for first, relation, second in found:
        assert (second, OPPOSITE[relation], first) in found
        assert not holds(OPPOSITE[relation], scene.things[first], scene.things[second])


def test_a_spec_needs_as_many_things_as_it_names():
    scene = scene_of(3)
    kind = scene.things[0].kind
    from research.world.scene import ThingSpec

    number = sum(thing.kind == kind for thing in scene.things)
    assert matches(Spec((ThingSpec(kind),) * number), scene)
    assert not matches(Spec((ThingSpec(kind),) * (number + 1)), scene)


def test_answers_are_right():
    rng = np.random.default_rng(0)
    counted = 0
    for seed in range(100):
        scene = scene_of(seed, "base")
        for question, answer, kind in questions(scene, rng, "base"):
            if kind == "background":
                assert answer == scene.background
            if (
                kind == "count"
                and question.endswith("objects are there ?")
                and "many objects" in question
            ):
                assert answer == words.NUMBERS[len(scene.things)]
                counted += 1
            if kind == "colour":
                assert any(thing.colour == answer for thing in scene.things)
    assert counted > 2


@pytest.mark.parametrize("category", list(compositional.CATEGORIES))
def test_compositional_negatives_are_false_and_texts_tell_nothing(category):
    made = compositional.items(category, 40, "eval", np.random.default_rng(0))
    assert len(made) == 40
    for item in made:
        assert not matches(item.negative_spec, item.scene)
        assert partition_of(item.scene) == "eval"
        changed = set(item.caption.split()) ^ set(item.negative.split())
        if category.startswith("replace"):
            assert len(changed - {"a", "an"}) <= 2
        if category.startswith("swap"):
            assert not changed - {"a", "an"}
    # Every caption is as often right as wrong.
    right = sorted(item.caption for item in made)
    wrong = sorted(item.negative for item in made)
    assert right == wrong
