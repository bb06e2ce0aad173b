from dataclasses import replace

import pytest

from sinkbench.errors import UsageError
from sinkbench.scenes.scene import DEFAULT, SIZE, sample_scene, scene_rng
from sinkbench.scenes.world import KINDS


def test_a_scene_depends_on_split_seed_and_index_alone():
    assert sample_scene("val", 1, 2) == sample_scene("val", 1, 2)
    others = [sample_scene("train", 1, 2), sample_scene("val", 2, 2), sample_scene("val", 1, 3)]
    assert all(other.objects != sample_scene("val", 1, 2).objects for other in others)


def test_train_and_val_share_no_scene():
    train = {sample_scene("train", seed, index).noise_seed for seed in (0, 1) for index in range(300)}
    val = {sample_scene("val", seed, index).noise_seed for seed in (0, 1) for index in range(300)}
    assert len(train) == len(val) == 600
    assert train.isdisjoint(val)


def test_numbers_do_not_run_together_in_the_seed():
    assert scene_rng("val", 1, 12).random() != scene_rng("val", 11, 2).random()


def test_objects_lie_inside_the_image_and_within_the_configured_sizes(scenes):
    for scene in scenes:
        assert 1 <= len(scene.objects) <= DEFAULT.objects[1]
        for thing in scene.objects:
            left, top, right, bottom = thing.box
            assert min(left, top) >= -1e-6
            assert max(right, bottom) <= SIZE + 1e-6
            assert DEFAULT.sizes[0] <= thing.size <= DEFAULT.sizes[1]


def test_objects_are_of_the_kind_and_mentions_of_absent_ones_too(scenes):
    mentioning = 0
    for scene in scenes:
        weights = KINDS[scene.kind].weights
        assert set(scene.counts) | set(scene.mentioned_absent) <= set(weights)
        assert set(scene.counts).isdisjoint(scene.mentioned_absent)
        mentioning += bool(scene.mentioned_absent)
    assert mentioning / len(scenes) == pytest.approx(DEFAULT.absent_mention, abs=0.1)


def test_every_kind_comes_up(scenes):
    assert {scene.kind for scene in scenes} == set(KINDS)


def test_partners_stand_together_more_often_than_chance():
    offices = [s for s in (sample_scene("train", 5, i) for i in range(6000)) if s.kind == "office"]
    with_mouse = [s for s in offices if "mouse" in s.counts]
    share = sum("keyboard" in s.counts for s in offices) / len(offices)
    assert sum("keyboard" in s.counts for s in with_mouse) / len(with_mouse) > share + 0.05


def test_knobs_are_obeyed():
    config = replace(DEFAULT, objects=(4, 4), sizes=(20.0, 22.0), sign=1.0, absent_mention=0.0, noise=(0.0, 0.0))
    for index in range(50):
        scene = sample_scene("test", 0, index, config)
        assert len(scene.objects) <= 4
        assert all(20 <= thing.size <= 22 for thing in scene.objects)
        assert scene.sign is not None
        assert (scene.mentioned_absent, scene.noise) == ((), 0)


def test_an_unknown_split_is_refused():
    with pytest.raises(UsageError, match="unknown split 'dev'"):
        sample_scene("dev", 0, 0)
