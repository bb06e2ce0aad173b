"""Attention weights of the vision encoder: what eager attention gives, in the processor's order of patches."""

import pytest
import torch
from harness import FAMILIES, adapter, image

from sinkbench.errors import UsageError

batched = pytest.mark.parametrize("family", [name for name in FAMILIES if not name.startswith("qwen")])
packed = pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith("qwen")])
SIZES = [(60, 30), (28, 28), (50, 50)]


def inputs_of(a):
    return [a.preprocess(image(40 + index, *size)) for index, size in enumerate(SIZES)]


@batched
@pytest.mark.parametrize("layer", [0, -1])
@torch.inference_mode()
def test_weights_are_those_of_eager_attention(family, layer):
    a = adapter(family)
    inputs = inputs_of(a)
    weights = a.vision_attention(inputs, layer)
    a.vision.set_attn_implementation("eager")
    for one, own in zip(weights, inputs, strict=True):
        pixels = own.tensors["pixel_values"]
        views = pixels.reshape(-1, *pixels.shape[-3:])
        assert one.shape[-1] == a.class_tokens + 4**2
        expected = a.vision(views, output_attentions=True).attentions[layer]
        torch.testing.assert_close(one, expected)
    a.vision.set_attn_implementation("sdpa")


def module_of(a, layer):
    return a.vision.blocks[layer].attn


@packed
@torch.inference_mode()
def test_weights_mix_the_values_into_the_layers_output(family):
    """The encoders of Qwen-VL return no weights, so their last, full-attention layer is checked by what it computes."""
    a = adapter(family)
    inputs = inputs_of(a)
    for own, weights in zip(inputs, a.vision_attention(inputs, -1), strict=True):
        assert weights.shape[-1] == a.class_tokens + len(own.tensors["pixel_values"])
        seen = {}
        module = module_of(a, -1)
        hooks = [
            module.qkv.register_forward_hook(lambda _module, _args, output, seen=seen: seen.update(qkv=output)),
            module.proj.register_forward_pre_hook(lambda _module, args, seen=seen: seen.update(out=args[0])),
        ]
        a.encode_images([own])
        for hook in hooks:
            hook.remove()
        n, heads = len(seen["out"]), weights.shape[1]
        value = seen["qkv"].view(n, 3, heads, -1)[:, 2]
        out = seen["out"].view(n, heads, -1)
        if family == "qwen2_5_vl":
            value, out = (in_patch_order(x, own) for x in (value, out))
        torch.testing.assert_close(torch.einsum("hij,jhd->ihd", weights[0], value), out)


def windows_of(own):
    """(N,) window of each patch: windows of 2×2 merge blocks, blocks of 2×2 patches, all in reading order."""
    _, rows, columns = own.tensors["image_grid_thw"][0].tolist()
    block_rows, block_columns = rows // 2, columns // 2
    row = torch.arange(block_rows)[:, None] // 2
    column = torch.arange(block_columns)[None, :] // 2
    return (row * block_columns + column).flatten().repeat_interleave(4)


def in_patch_order(x, own):
    back = windows_of(own).argsort(stable=True).argsort()
    return x[back]


@torch.inference_mode()
def test_weights_of_a_windowed_layer_are_zero_between_windows():
    a = adapter("qwen2_5_vl")
    inputs = [a.preprocess(image(50 + index, *size)) for index, size in enumerate([(70, 42), (40, 62)])]
    for own, weights in zip(inputs, a.vision_attention(inputs, 0), strict=True):
        windows = windows_of(own)
        assert len(windows.unique()) > 1
        same = windows[:, None] == windows[None, :]
        assert torch.equal(weights[0] > 0, same.expand_as(weights[0]))
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_several_layers_take_one_pass(family, monkeypatch):
    a, passes = adapter(family), []
    inputs = inputs_of(a)
    alone = [a.vision_attention(inputs, layer) for layer in (0, -1)]
    encode = a.encode_images
    monkeypatch.setattr(a, "encode_images", lambda images: passes.append(len(images)) or encode(images))
    together = a.vision_attentions(inputs, [-1, 0, 0])
    assert passes == [len(inputs)]
    for (last, first, again), first_alone, last_alone in zip(together, *alone, strict=True):
        assert torch.equal(first, first_alone)
        assert torch.equal(again, first_alone)
        assert torch.equal(last, last_alone)
        assert not torch.equal(first, last)


def head_mean_keys(a, layer: int, own) -> torch.Tensor:
    """(V, N, d) keys before RoPE, by the layer's own projection."""
    module, seen = a._vision_attention[layer], []
    projection = module.qkv if hasattr(module, "qkv") else module.k_proj
    hooks = [projection.register_forward_hook(lambda _module, _args, output: seen.append(output))]
    if isinstance(getattr(module, "k_norm", None), torch.nn.LayerNorm):
        hooks.append(module.k_norm.register_forward_hook(lambda _module, _args, output: seen.append(output)))
    a.encode_images([own])
    for hook in hooks:
        hook.remove()
    keys = seen[-1]
    if hasattr(module, "qkv"):
        return keys.view(len(keys), 3, module.num_heads, -1)[:, 1].mean(1)[None]
    return keys.unflatten(-1, (module.num_heads, -1)).mean(2)


@batched
@torch.inference_mode()
def test_keys_are_means_over_heads(family):
    a = adapter(family)
    inputs = inputs_of(a)
    for layer in (0, -1):
        for own, seen in zip(inputs, a.see_encoder(inputs, [layer]), strict=True):
            torch.testing.assert_close(seen.layers[0].keys, head_mean_keys(a, layer, own))


@packed
@torch.inference_mode()
def test_packed_keys_are_sorted_by_image_and_patch(family):
    """RoPE turns the keys of all heads alike, so that the mean has the length that it had before."""
    a = adapter(family)
    inputs = inputs_of(a)
    for layer in (0, -1):
        for own, seen in zip(inputs, a.see_encoder(inputs, [layer]), strict=True):
            (before,) = head_mean_keys(a, layer, own)
            if family == "qwen2_5_vl":
                before = in_patch_order(before, own)
            torch.testing.assert_close(seen.layers[0].keys.norm(dim=-1), before.norm(dim=-1)[None])


@pytest.mark.parametrize("layer", [-1, -2, 1, 2])
@torch.inference_mode()
def test_states_through_the_projector_are_the_features(layer):
    a = adapter("llava")
    inputs = inputs_of(a)
    before, a.model.config.vision_feature_layer = a.model.config.vision_feature_layer, layer
    try:
        # Hidden states are counted from the first layer's input.
        assert a.info.vision_layer == (layer if layer < 0 else layer - 1)
        for seen, encoded in zip(a.see_encoder(inputs, [0]), a.encode_images(inputs), strict=True):
            torch.testing.assert_close(a.projector(seen.states[a.class_tokens :]), encoded.tokens)
        a.model.config.vision_feature_layer = [0, layer]
        assert a.projected_layer is None
    finally:
        a.model.config.vision_feature_layer = before


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "llava"])
@torch.inference_mode()
def test_features_that_are_not_patches_have_no_states(family):
    a = adapter(family)
    assert [seen.states for seen in a.see_encoder(inputs_of(a), [-1])] == [None] * len(SIZES)
    assert a.info.vision_layer == -1


@pytest.mark.parametrize("family", FAMILIES)
def test_refuses_a_layer_that_is_not_there(family):
    a = adapter(family)
    for layer in (7, -8):
        with pytest.raises(UsageError, match=f"has no vision layer {layer}"):
            a.vision_attention(inputs_of(a), layer)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_the_encoder_is_left_as_it_was_found(family, monkeypatch):
    a = adapter(family)
    inputs = inputs_of(a)
    before = a.encode_images(inputs)
    a.vision_attention(inputs, 0)

    def explode(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(a, "encode_images", explode)
        with pytest.raises(ZeroDivisionError):
            a.vision_attention(inputs, 0)
    assert a.vision.config._attn_implementation == "sdpa"
    for now, then in zip(a.encode_images(inputs), before, strict=True):
        assert torch.equal(now.tokens, then.tokens)
