"""What only Qwen-VL has: three-dimensional positions, packed images of any size, markup around images."""

from dataclasses import replace

import pytest
import torch
from harness import adapter, image, model_folder, request, requests

from sinkbench.adapters.qwen_vl import QwenVLAdapter
from sinkbench.engine.context import Role
from sinkbench.errors import SampleError, UsageError
from sinkbench.request import Message, Request

families = pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])


def two_turns() -> Request:
    turns = (
        Message("user", "is there a cat <image> what do you see <image> ?"),
        Message("assistant", "a cat ."),
        Message("user", "<image> is the cat red ?"),
    )
    return Request("turns", turns, (image(0, 97, 31), image(1, 30, 60), image(2, 50, 50)))


@families
def test_positions_are_the_models_own(family):
    a = adapter(family)
    for asked in [*requests(), two_turns()]:
        if not asked.images:
            continue
        prompt = a.encode(asked)
        inputs = a.processor(
            text=a._render(asked)[0],
            images=[i.load() for i in asked.images],
            return_tensors="pt",
            add_special_tokens=False,
        )
        expected, delta = a.model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
        )
        assert torch.equal(prompt.positions, expected[:, 0])
        assert prompt.next_position == len(prompt) + int(delta)


@families
def test_a_wide_image_takes_as_many_positions_as_it_has_columns(family):
    a = adapter(family)
    prompt = a.encode(request("r", "<image>\nwhat ?", image(0, 97, 31)))
    first = int((prompt.roles == Role.IMAGE).nonzero()[0])
    rows, columns = a.grid_of_size(31, 97)
    assert 1 < rows < columns
    assert prompt.positions[:, first + columns].tolist() == [first, first + 1, first]
    assert prompt.positions[:, first + rows * columns].tolist() == [first + columns] * 3


@families
def test_text_alone_counts_alike_on_all_axes(family):
    prompt = adapter(family).encode(request("r", "how many are there ?"))
    assert torch.equal(prompt.positions, torch.arange(len(prompt)).expand(3, -1))


@families
@torch.inference_mode()
def test_images_in_one_pass_do_not_see_each_other(family):
    a = adapter(family)
    inputs = [a.preprocess(image(30 + i, *size)) for i, size in enumerate([(60, 30), (31, 97), (28, 28)])]
    together = a.encode_images(inputs)
    for features, one in zip(together, inputs, strict=True):
        alone = a.encode_images([one])[0]
        torch.testing.assert_close(features.tokens, alone.tokens)
        assert (features.deepstack is None) == (alone.deepstack is None) == (family != "qwen3_vl")
        if alone.deepstack is not None:
            torch.testing.assert_close(features.deepstack, alone.deepstack)


@families
def test_image_sizes_between_the_processors_limits(family):
    a = adapter(family)
    side = 14
    assert a.grid_of_size(31, 97) == (2, 7)
    for height, width in [(28, 28), (500, 700), (20, 60)]:
        rows, columns = a.grid_of_size(height, width)
        assert 1000 <= rows * columns * side**2 <= 2940
    with pytest.raises(SampleError, match="2×500 pixels"):
        a.grid_of_size(500, 2)
    with pytest.raises(SampleError, match="2×500 pixels"):
        a.preprocess(image(4, 2, 500))


@families
def test_markup_around_an_image_is_template_and_leaves_with_it(family):
    a = adapter(family)
    prompt = a.encode(two_turns())
    places = (prompt.ids == a.model.config.vision_start_token_id) | (prompt.ids == a.model.config.vision_end_token_id)
    assert places.sum() == 6
    assert (prompt.roles[places] == Role.TEMPLATE).all()
    plain = prompt.without_images()
    assert torch.equal(plain.ids, prompt.ids[~places & (prompt.roles != Role.IMAGE)])
    assert torch.equal(plain.positions, torch.arange(len(plain)).expand(3, -1))
    words = [plain.ids[token] for part in plain.user_texts for token, _, _ in part.tokens]
    assert torch.equal(torch.stack(words), prompt.ids[prompt.roles == Role.QUERY])


@families
def test_markup_that_the_user_typed_stays(family):
    a = adapter(family)
    plain = a.encode(request("r", "<image>\nis <|vision_end|> red ?", image(0))).without_images()
    query = plain.ids[plain.roles == Role.QUERY].tolist()
    assert a.tokenizer.convert_ids_to_tokens(query) == ["is", "<|vision_end|>", "red", "?"]


@families
def test_layers_read_the_config_that_the_engine_switches(family):
    a = adapter(family)
    assert all(layer.self_attn.config is a.language_model.config for layer in a.layers)
    assert a.vision.config is not a.language_model.config


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_refuses_sliding_windows(family):
    from transformers import AutoConfig, AutoModelForImageTextToText

    a = adapter(family)
    config = AutoConfig.from_pretrained(model_folder(family))
    kinds = config.text_config.layer_types
    config.text_config.sliding_window = 8
    config.text_config.layer_types = [*kinds[:-1], "sliding_attention"]
    model = AutoModelForImageTextToText.from_config(config)
    with pytest.raises(UsageError, match=r"here: layers \[5\] of its language model attend within a sliding window"):
        QwenVLAdapter(replace(a.preset, name="here"), model, a.processor)


@families
def test_min_and_max_pixels(family, load):
    ref = image(5, 60, 60)
    assert load(family, max_pixels=1000).grid_of_size(60, 60) == (2, 2)
    small = load(family, min_pixels=2000, max_pixels=8000)
    assert small.grid_of_size(28, 28) == (4, 4)
    inputs = small.preprocess(ref)
    assert inputs.tensors["image_grid_thw"].tolist() == [[1, 8, 8]]
    assert len(small.image_layout(ref)) == len(inputs.roles) == 16
    with pytest.raises(UsageError, match="min_pixels 9000 is above max_pixels 2940"):
        load(family, min_pixels=9000)


@torch.inference_mode()
def test_deepstack_features_are_the_inner_layers():
    a = adapter("qwen3_vl")
    inputs = [a.preprocess(image(30 + i, *size)) for i, size in enumerate([(60, 30), (31, 97)])]
    seen = []
    mergers = a.vision.deepstack_merger_list
    hooks = [merger.register_forward_hook(lambda _module, _args, output: seen.append(output)) for merger in mergers]
    features = a.encode_images(inputs)
    for hook in hooks:
        hook.remove()
    assert len(seen) == 2
    assert torch.equal(torch.cat([one.deepstack for one in features], dim=1), torch.stack(seen))
