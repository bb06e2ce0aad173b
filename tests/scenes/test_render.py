import pickle
from dataclasses import replace

import pytest
import torch

from sinkbench.scenes.hashing import counters, gaussian, hash32
from sinkbench.scenes.pack import pack
from sinkbench.scenes.render import Renderer
from sinkbench.scenes.scene import SceneObject


@pytest.fixture(scope="module")
def renderer():
    return Renderer("cpu")


@pytest.fixture(scope="module")
def images(renderer, scenes):
    return renderer.render(scenes[:12])


def test_images_are_uint8_and_not_flat(images):
    assert (images.shape, images.dtype) == ((12, 3, 224, 224), torch.uint8)
    assert float(images.float().std((1, 2, 3)).min()) > 5


def test_the_batch_does_not_change_an_image(renderer, scenes, images):
    for index in (0, 5, 11):
        assert torch.equal(renderer.render([scenes[index]])[0], images[index])
    assert torch.equal(renderer.render(scenes[4:9]), images[4:9])


def test_packed_scenes_survive_pickling(renderer, scenes, images):
    packed = pickle.loads(pickle.dumps(pack(scenes[:3])))
    assert len(packed) == 3
    assert torch.equal(renderer.render_packed(packed), images[:3])


def test_an_object_changes_only_pixels_near_it(renderer, scenes):
    scene = replace(scenes[0], blur=0.0)
    thing = scene.objects[-1]
    changed = (renderer.render([scene]) != renderer.render([replace(scene, objects=scene.objects[:-1])]))[0].any(0)
    rows, columns = changed.nonzero().unbind(1)
    assert len(rows) > 50
    assert float((rows - thing.y).abs().max()) <= thing.size
    assert float((columns - thing.x).abs().max()) <= thing.size


def test_the_sign_is_drawn(renderer, scenes):
    scene = next(s for s in scenes if s.sign is not None)
    changed = (renderer.render([scene]) != renderer.render([replace(scene, sign=None)]))[0].any(0)
    assert int(changed.sum()) > 0.5 * scene.sign.width * scene.sign.height
    other = replace(scene, sign=replace(scene.sign, text="zoo" if scene.sign.text != "zoo" else "spa"))
    assert not torch.equal(renderer.render([scene]), renderer.render([other]))


def test_a_flipped_unrotated_sprite_is_the_mirror_image(renderer, scenes):
    thing = SceneObject("cat", "0", 112.0, 112.0, 40.0)
    pair = [replace(scenes[0], objects=(replace(thing, flip=flip),)) for flip in (False, True)]
    _, masks = renderer.object_masks(pack(pair))
    differing = masks[0, 0] ^ masks[1, 0].flip(-1)
    assert int(masks[0, 0].sum()) > 200
    assert int(differing.sum()) <= 4


def test_later_objects_hide_earlier_ones(renderer, scenes):
    behind = SceneObject("cow", "0", 100.0, 100.0, 40.0)
    before = SceneObject("stop sign", "0", 110.0, 100.0, 40.0)
    visible, whole = renderer.object_masks(pack([replace(scenes[0], objects=(behind, before))]))
    assert torch.equal(visible[0, 1], whole[0, 1])
    assert torch.equal(visible[0, 0], whole[0, 0] & ~whole[0, 1])
    assert 0 < int(visible[0, 0].sum()) < int(whole[0, 0].sum())


def test_noise_has_the_asked_standard_deviation(renderer, scenes):
    clean = renderer.render([replace(scenes[0], noise=0.0)]).float() / 255
    noisy = renderer.render([replace(scenes[0], noise=0.04)]).float() / 255
    inside = (clean > 0.2) & (clean < 0.8)
    assert float((noisy - clean)[inside].std()) == pytest.approx(0.04, rel=0.05)


def test_the_hash_follows_the_published_steps():
    def reference(x):
        x = ((x ^ x >> 16) * 0x7FEB352D) % 2**32
        x = ((x ^ x >> 15) * 0x846CA68B) % 2**32
        return x ^ x >> 16

    seeds = torch.tensor([1, 2, 0xFFFFFFFF])
    assert hash32(seeds, torch.zeros(3, dtype=torch.int64)).tolist() == [reference(int(s)) for s in seeds]
    sample = gaussian(torch.tensor([[7]]), counters(100_000, device=torch.device("cpu")))
    assert float(sample.mean()) == pytest.approx(0, abs=0.02)
    assert float(sample.std()) == pytest.approx(1, abs=0.02)


def test_only_the_layout_size_is_drawn():
    with pytest.raises(ValueError, match="224"):
        Renderer("cpu", size=256)
