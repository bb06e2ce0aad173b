"""The user's words inside a prompt, and values laid out beside the tokens."""

import torch
from harness import adapter, image, request

from sinkbench.engine.context import Role
from sinkbench.engine.prompt import Segment, flush
from sinkbench.request import Message, Request


def spans_of(*wanted):
    return lambda text: [(text.index(w), text.index(w) + len(w)) for w in wanted if w in text]


def marked(a, prompt, find) -> list[str]:
    return a.tokenizer.convert_ids_to_tokens(prompt.ids[prompt.mark(find)].tolist())


def test_marks_are_the_tokens_that_overlap_the_span():
    a = adapter("llava")
    prompt = a.encode(request("r", "<image>\nis there a dog in the image ?", image(0)))
    assert marked(a, prompt, spans_of("dog", "image")) == ["dog", "image"]
    assert marked(a, prompt, spans_of("og in th")) == ["dog", "in", "the"]
    assert marked(a, prompt, lambda text: []) == []
    assert torch.equal(prompt.mark(lambda text: [(0, len(text))]), prompt.roles == Role.QUERY)


def test_marks_find_their_tokens_around_images_and_over_turns():
    a = adapter("llava")
    turns = (
        Message("user", "is there a cat <image> what do you see <image> ?"),
        Message("assistant", "a cat ."),
        Message("user", "is the cat red ?"),
    )
    prompt = a.encode(Request("r", turns, (image(0), image(1))))
    assert [part.text for part in prompt.user_texts] == ["is there a cat", "what do you see", "?", "is the cat red ?"]
    assert marked(a, prompt, spans_of("cat", "see", "red")) == ["cat", "see", "cat", "red"]
    plain = prompt.without_images()
    assert marked(a, plain, spans_of("cat", "see", "red")) == ["cat", "see", "cat", "red"]


def test_values_are_laid_out_like_the_tokens():
    a = adapter("llava")
    prompts = [a.encode(request(text, text)) for text in ("one ?", "how many red cat are there ?", "what ?")]
    spans = [(1, len(prompts[0])), (2, len(prompts[1])), (len(prompts[2]), len(prompts[2]))]
    segment = Segment.stack(prompts, spans, a.device, "right")
    assert segment.padded
    longest = len(prompts[1]) - 2
    for row, (prompt, (start, end)) in enumerate(zip(prompts, spans, strict=True)):
        empty = longest - (end - start)
        assert segment.ids[row].tolist() == [0] * empty + prompt.ids[start:end].tolist()
        assert segment.roles[row].tolist() == [Role.PAD] * empty + prompt.roles[start:end].tolist()
        assert segment.positions[0, row, empty:].tolist() == list(range(start, end))
    marks = flush([p.roles == Role.QUERY for p in prompts], spans, a.device, "right")
    assert torch.equal(marks, segment.roles == Role.QUERY)
