"""Looks see what eager attention sees; what follows from them is answered, or fails, sample by sample."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from harness import adapter, answers, image, method, model_folder, request, requests
from PIL import Image
from transformers import AutoModelForImageTextToText

from sinkbench.adapters.views import whole_views
from sinkbench.engine import feeder, refocus
from sinkbench.engine.generate import Engine
from sinkbench.engine.looking import number_cells
from sinkbench.errors import SampleError, UsageError
from sinkbench.methods import get_method
from sinkbench.methods.base import Intervention, Method
from sinkbench.methods.looks import Focus, Look
from sinkbench.methods.pai import Pai
from sinkbench.request import Generation, ImageRef, MadeImage

LAYERS = (1, 4)


class Looks(Intervention):
    """Asks what was asked, T tokens long, keeps what it saw, and answers the request as it is."""

    def __init__(self, tokens):
        self.tokens, self.seen = tokens, {}

    def looks(self, asked):
        return [Look(replace(asked, generation=Generation(self.tokens)), LAYERS)]

    def refocus(self, asked, seen, images):
        assert [picture.size for picture in images] == [ref.size() for ref in asked.images]
        self.seen[asked.id] = seen[0]
        return Focus(asked, {"saw": len(seen[0])})


@dataclass(frozen=True)
class Looker(Method):
    name = "looker"
    summary = ""
    paper = None
    refocuses = True
    tokens: int = 1

    def bind(self, model):
        return Looks(self.tokens)


def look(a, asked, tokens=1, static=False, **options):
    """What was seen by request, and the responses by request."""
    engine = Engine(a, Looker(tokens), **options)
    engine.static = static
    responses = {r.id: r for batch in engine.answer(asked) for r in batch}
    return engine.lanes["looker"].method.seen, responses


@torch.inference_mode()
def eager_rows(family, asked, tokens):
    """(T, L, K) head means of the rows that predict each token, and the prompt's ids, by eager transformers."""
    a = adapter(family)
    model = AutoModelForImageTextToText.from_pretrained(model_folder(family), attn_implementation="eager").eval()
    inputs = a.processor(
        text=a._render(asked)[0],
        images=[[ref.load() for ref in asked.images]],
        return_tensors="pt",
        add_special_tokens=False,
    )
    out = model.generate(
        **inputs, max_new_tokens=tokens, do_sample=False, output_attentions=True, return_dict_in_generate=True
    )
    length = inputs["input_ids"].shape[1]
    rows = [torch.stack([layer[0, :, -1, :length].mean(0) for layer in step]) for step in out.attentions]
    return torch.stack(rows), inputs["input_ids"][0]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llava_next", "internvl"])
@pytest.mark.parametrize("tokens", [1, 4])
def test_a_look_sees_what_eager_attention_sees(family, tokens):
    """Single images on one grid, and every step; the second image of a prompt has a map of its own."""
    a, asked = adapter(family), [r for r in requests() if r.images]
    seen, _ = look(a, asked, tokens)
    for r in asked:
        expected, ids = eager_rows(family, r, tokens)
        places = (ids == a.image_token).nonzero()[:, 0]
        views = whole_views(a, a.encode(r))
        assert len(seen[r.id]) == len(views) == len(r.images)
        if family == "llava_next":
            # Newline features are image tokens of the ids, but no cells.
            places = places[torch.cat([a.image_layout(ref) for ref in r.images]) == 2]
        for found, view in zip(seen[r.id], views, strict=True):
            cells = expected[:, LAYERS][:, :, places[torch.from_numpy(view.tokens)]]
            assert found.maps.shape == (len(expected), 2, *view.tokens.shape)
            torch.testing.assert_close(found.maps, cells, atol=2e-6, rtol=1e-4)
            assert found.box == view.box


def test_answers_that_end_early_have_fewer_maps():
    """Rows that leave the batch keep what was seen of them until then."""
    a = adapter("qwen2_5_vl")
    asked = [
        request(f"{i}", f"<image>\nhow many {words} ?", image(i, 40 + i, 40))
        for i, words in enumerate(("red cat", "dog car tree", "are there", "do you see in the image", "one two", ""))
    ]
    seen, _ = look(a, asked, 24)
    lengths = {id: len(images[0].maps) for id, images in seen.items()}
    assert len(set(lengths.values())) > 1
    assert min(lengths.values()) < 24
    plain = Engine(a, method("greedy"))
    longer = [replace(r, generation=Generation(24)) for r in asked]
    assert lengths == {r.id: r.new_tokens for batch in plain.answer(longer) for r in batch}
    for r in asked:
        alone, _ = look(a, [r], 24)
        torch.testing.assert_close(alone[r.id][0].maps, seen[r.id][0].maps, atol=2e-6, rtol=1e-4)


def test_what_is_seen_depends_neither_on_batch_nor_sharing_nor_empty_slots():
    a, asked = adapter("internvl"), requests()
    seen, responses = look(a, asked, 3)
    for options in ({"batch_size": 1}, {"share_prefix": False}, {"static": True}):
        others, again = look(a, asked, 3, **options)
        assert {id: r.text for id, r in again.items()} == {id: r.text for id, r in responses.items()}
        assert others.keys() == seen.keys() == {r.id for r in asked if r.images}
        for id, images in seen.items():
            for one, other in zip(images, others[id], strict=True):
                torch.testing.assert_close(one.maps, other.maps, atol=2e-6, rtol=1e-4)


def test_an_unchanged_request_is_answered_greedily_and_details_are_kept():
    a, asked = adapter("llava"), requests()
    _, responses = look(a, asked)
    assert {id: r.text for id, r in responses.items()} == answers(a, method("greedy"), asked)
    assert {id: r.details for id, r in responses.items()} == {
        r.id: {"saw": len(r.images)} if r.images else {} for r in asked
    }


def test_cells_are_numbered_in_raster_order_over_the_views():
    a = adapter("internvl")
    prompt = a.encode(request("r", "<image> <image> ?", image(0, 60, 30), image(2, 20, 20)))
    views = whole_views(a, prompt)
    assert [view.name for view in views] == ["thumbnail", "tiles"]
    cells = number_cells(views, prompt.visual_tokens)
    assert cells.tolist() == [0] * 8 + [1, 2, 3, 4] + [5, 6, 7, 8]


def test_equal_looks_of_a_batch_run_once(monkeypatch):
    """The general instruction about an image is the same for all its questions."""
    a, batches = adapter("llava"), []
    run = refocus.Batch.record

    def spy(self, maps):
        batches.append(sorted(question.prompt.request.messages[-1].text for question in self.questions))
        run(self, maps)

    monkeypatch.setattr(refocus.Batch, "record", spy)
    asked = [request(f"{i}", f"<image>\n{words} ?", image(0)) for i, words in enumerate(("one", "two", "red"))]
    answers(a, get_method("vicrop"), asked)
    (texts,) = batches
    assert len(texts) == 4
    assert sum("general" in text for text in texts) == 1


def test_looks_share_vision_and_prefix_with_the_other_methods(monkeypatch):
    a = adapter("llava")
    asked = [request(f"{i}", f"<image>\n{words} ?", image(0)) for i, words in enumerate(("one", "two"))]
    encoded = []
    encode = a.encode_images
    monkeypatch.setattr(a, "encode_images", lambda images: (encoded.append(len(images)), encode(images))[1])
    engine = Engine(a, {"greedy": method("greedy"), "vicrop": get_method("vicrop")})
    list(engine.sweep(asked, lambda *_: True))
    # The image once for all; then the image and the crops again, for the answers that see both.
    assert encoded[0] == 1
    assert sum(encoded[1:]) <= 3
    timings = engine.lanes["vicrop"].timings
    assert timings.answers == 2
    assert timings.prefix_s > 0
    assert timings.decode_steps <= 2 * (asked[0].generation.max_new_tokens - 1)


class Picky(Looks):
    """Gives up one sample at each stage."""

    def looks(self, asked):
        if asked.id == "bad/look":
            raise SampleError("cannot look")
        if asked.id == "bad/encode-look":
            return [Look(replace(asked, images=()), LAYERS)]
        return super().looks(asked)

    def refocus(self, asked, seen, images):
        if asked.id == "bad/refocus":
            raise SampleError("nothing to see")
        if asked.id == "bad/encode":
            return Focus(replace(asked, images=()))
        if asked.id == "bad/image":
            return Focus(replace(asked, images=(ImageRef("missing.png"),)), {"tried": 1})
        return super().refocus(asked, seen, images)


def test_a_sample_that_fails_on_the_way_harms_no_other():
    a = adapter("llava")
    asked = [
        request(name, "<image>\nwhat do you see ?", image(index))
        for index, name in enumerate(
            ["good/1", "bad/look", "bad/encode-look", "bad/refocus", "bad/encode", "bad/image", "good/2"]
        )
    ]
    engine = Engine(a, Looker())
    engine.lanes["looker"].method = Picky(1)
    responses = [r for batch in engine.answer(asked) for r in batch]
    assert sorted(r.id for r in responses) == sorted(r.id for r in asked)
    errors = {r.id: r.error for r in responses if r.finish == "error"}
    assert errors.keys() == {r.id for r in asked if r.id.startswith("bad")}
    assert errors["bad/look"] == "cannot look"
    assert errors["bad/refocus"] == "nothing to see"
    assert "1 image tokens for 0 images" in errors["bad/encode"]
    assert "1 image tokens for 0 images" in errors["bad/encode-look"]
    assert "missing.png" in errors["bad/image"]
    good = [r for r in asked if r.id.startswith("good")]
    assert {r.id: r.text for r in responses if not r.error} == answers(a, method("greedy"), good)


def test_an_image_whose_grid_is_unknown_fails_its_sample(monkeypatch):
    a = adapter("llava")
    monkeypatch.setattr("sinkbench.adapters.views._FAMILIES", ())
    (responses,) = Engine(a, get_method("vicrop")).answer(
        [request("r", "<image>\nwhat ?", image(0)), request("t", "what ?")]
    )
    by_id = {r.id: r for r in responses}
    assert "not known" in by_id["r"].error
    assert not by_id["t"].error


def test_out_of_memory_halves_the_batch_and_loses_nothing(monkeypatch):
    """While looking and while answering; the looks of what is answered already are not repeated."""
    a = adapter("llava")
    asked = [request(f"{i}", f"<image>\nis there a {'dog ' * (i % 3 + 1)}?", image(i // 2)) for i in range(7)]
    expected = answers(a, method("vicrop"), asked)
    look_at, run = Engine._look, Engine._run
    sizes = []

    def small_look(self, name, looks, prefixes):
        sizes.append(len(looks.prompts))
        if len(looks.prompts) > 6:
            raise torch.OutOfMemoryError("too many looks")
        look_at(self, name, looks, prefixes)

    def small_run(self, name, prompts, *rest):
        if len(prompts) > 1:
            raise torch.OutOfMemoryError("too many answers")
        return run(self, name, prompts, *rest)

    monkeypatch.setattr(Engine, "_look", small_look)
    monkeypatch.setattr(Engine, "_run", small_run)
    assert answers(a, method("vicrop"), asked) == expected
    assert sum(size <= 6 for size in sizes) == 2


def test_new_images_are_made_some_samples_at_a_time(monkeypatch):
    a, asked = adapter("llava"), requests()
    expected = answers(a, method("vicrop"), asked)
    monkeypatch.setattr(refocus, "_AT_ONCE", 2)
    assert answers(a, method("vicrop"), asked) == expected


def test_sampling_keeps_the_request_id_as_seed():
    a = adapter("llava")
    asked = [replace(r, generation=replace(r.generation, do_sample=True, temperature=1.5)) for r in requests()]
    plain = answers(a, method("greedy"), asked)
    assert answers(a, get_method("random_crop", {"crops": 0}), asked) == plain


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_composition_acts_on_the_final_answer_alone(family, monkeypatch):
    a, asked = adapter(family), [r for r in requests() if r.images]
    both, alone = (
        {r.id: r for batch in Engine(a, m).answer(asked) for r in batch}
        for m in (method("vicrop+pai"), method("vicrop"))
    )
    # The looks are the unedited model's: the same boxes.
    assert {id: r.details for id, r in both.items()} == {id: r.details for id, r in alone.items()}
    assert any(both[id].text != alone[id].text for id in both)
    rewritten = [cropped_by_hand(r, both[r.id].details["boxes"]) for r in asked]
    pai = Pai(gamma=1.5, first_token="always")
    assert {id: r.text for id, r in both.items()} == answers(a, pai, rewritten)


def cropped_by_hand(asked, boxes):
    """The request with its crops put beside its images."""
    images, text = [], asked.messages[0].text
    for ref, own in zip(asked.images, boxes, strict=True):
        images += [ref, *(MadeImage.of(ref.load().crop(box)) for box in own)]
    pieces = text.split("<image>")
    repeated = [
        ("<image>\n" if piece.startswith("\n") else "<image>") * len(own)
        for piece, own in zip(pieces[1:], boxes, strict=True)
    ]
    text = pieces[0] + "".join(more + "<image>" + piece for more, piece in zip(repeated, pieces[1:], strict=True))
    return replace(asked, messages=(replace(asked.messages[0], text=text),), images=tuple(images))


@pytest.mark.parametrize("name", ["vicrop", "visual_funnel", "random_crop"])
@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "internvl"])
def test_the_answer_is_that_of_the_plain_model_to_the_new_request(family, name):
    a, asked = adapter(family), requests()
    responses = {r.id: r for batch in Engine(a, method(name)).answer(asked) for r in batch}
    rewritten = [cropped_by_hand(r, responses[r.id].details["boxes"]) if r.images else r for r in asked]
    assert {id: r.text for id, r in responses.items()} == answers(a, method("greedy"), rewritten)


def test_two_methods_that_refocus_are_refused():
    with pytest.raises(UsageError, match="vicrop and random_crop each answer another request"):
        get_method("vicrop+random_crop")
    both = get_method("pai+vicrop")
    assert both.refocuses
    assert not get_method("pai").refocuses


def test_a_made_image_is_like_one_on_disk(tmp_path):
    """Same layout, same tensors; equal pixels of equal size are one image; nothing remembers it."""
    pixels = np.random.RandomState(3).randint(0, 255, (33, 47, 3), dtype=np.uint8)
    made = MadeImage.of(Image.fromarray(pixels))
    assert made == MadeImage.of(Image.fromarray(pixels.copy()))
    assert made.key != MadeImage.of(Image.fromarray(pixels.reshape(47, 33, 3))).key
    assert (made.size(), made.load().size) == ((47, 33), (47, 33))
    Image.fromarray(pixels).save(tmp_path / "same.png")
    ref = ImageRef.from_file(tmp_path / "same.png")
    for family in ("llava", "llava_onevision", "qwen2_5_vl", "internvl"):
        a = adapter(family)
        before = a._file_size.cache_info().currsize
        for pair in ((made, ref), tuple(a.prompt_images((own, own))[0] for own in (made, ref))):
            ours, theirs = (a.preprocess(own) for own in pair)
            assert a.image_size(pair[0]) == (47, 33)
            assert a.image_layout(pair[0]).equal(theirs.roles)
            for name, values in theirs.tensors.items():
                assert torch.equal(torch.as_tensor(ours.tensors[name]), torch.as_tensor(values))
        a.image_layout(made)
        assert a._file_size.cache_info().currsize <= before + 2


def test_known_images_are_not_preprocessed_again():
    a = adapter("llava")
    prompt = a.encode(request("r", "<image>\nwhat ?", image(0)))
    known = {prompt.images[0].key: a.preprocess(prompt.images[0])}
    (ready,) = feeder.feed_batches(a, [[prompt]], known)
    assert ready.inputs[prompt.images[0].key] is known[prompt.images[0].key]
