"""Beam search against transformers' own, and against searches that run every hypothesis from scratch."""

from dataclasses import replace

import pytest
import torch
from harness import CORE_FAMILIES, adapter, answers, close, forced_tokens, logits, method, request, requests, stream
from transformers import StoppingCriteria, StoppingCriteriaList

from sinkbench.engine.beams import BeamSearch, Candidate, Hypotheses
from sinkbench.engine.endings import Endings
from sinkbench.engine.generate import Engine
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.request import Generation


def asked(max_new_tokens: int, **settings: object):
    return [replace(r, generation=replace(r.generation, max_new_tokens=max_new_tokens, **settings)) for r in requests()]


@torch.inference_mode()
def plain_search(a, request, **options) -> str:
    """The answer of transformers' own beam search, sdpa, batch 1."""
    text, _ = a._render(request)
    images = [[image.load() for image in request.images]] if request.images else None
    inputs = a.processor(text=text, images=images, return_tensors="pt", add_special_tokens=False)
    length = request.generation.max_new_tokens
    (out,) = a.model.generate(**inputs, max_new_tokens=length, do_sample=False, **options)
    return a.decode(out[inputs["input_ids"].shape[1] :].tolist())


@pytest.mark.parametrize("family", CORE_FAMILIES)
@pytest.mark.parametrize(("tokens", "penalty"), [(1, 1.0), (3, 1.0), (24, 1.0), (24, 0.0), (12, 2.0), (12, -1.0)])
def test_a_ragged_batch_is_answered_as_by_transformers_one_by_one(family, tokens, penalty):
    a, questions = adapter(family), asked(tokens)
    ours = answers(a, get_method("beam", {"length_penalty": penalty}), questions)
    theirs = {r.id: plain_search(a, r, num_beams=5, length_penalty=penalty).strip() for r in questions}
    assert ours == theirs


class Contains(StoppingCriteria):
    """Ends a hypothesis that contains a string; transformers' own criterion does not know tokenizers of whole words."""

    def __init__(self, a, start, strings):
        self.a, self.start, self.strings = a, start, strings

    def __call__(self, ids, scores, **_):
        texts = [self.a.decode(row[self.start :].tolist()) for row in ids]
        return torch.tensor([any(string in text for string in self.strings) for text in texts])


@pytest.mark.parametrize("family", CORE_FAMILIES)
def test_a_stop_string_ends_a_hypothesis_as_in_transformers(family):
    a = adapter(family)
    stop = ("dog", "two", "see", "is")
    ours = answers(a, get_method("beam"), asked(12, stop=stop))
    n_cut = 0
    for question in asked(12):
        ends = StoppingCriteriaList([Contains(a, len(a.encode(question)), stop)])
        whole = plain_search(a, question, num_beams=5, stopping_criteria=ends)
        cut = whole
        for string in stop:
            cut = cut.partition(string)[0]
        assert ours[question.id] == cut.strip()
        n_cut += cut != whole
    assert n_cut >= 2


def reference(a, m, question, n_beams: int) -> str:
    """The same rules, but every hypothesis is answered for by passes of its own from the prompt on."""
    length = question.generation.max_new_tokens
    live, ended = [((), 0.0)], []
    for step in range(1, length + 1):
        grown = []
        for tokens, score in live:
            forced = torch.tensor([tokens], dtype=torch.int64).view(1, -1)
            next_scores = logits(a, m, [question], forced)[0, -1].log_softmax(-1)
            grown += [((*tokens, token), score + value) for token, value in enumerate(next_scores.tolist())]
        grown = sorted(grown, key=lambda entry: -entry[1])[: 2 * n_beams]
        ended += [e for e in grown[:n_beams] if (e[0][-1] in a.eos or step == length) and e[1] > float("-inf")]
        ended = sorted(ended, key=lambda entry: -entry[1] / len(entry[0]))[:n_beams]
        live = [entry for entry in grown if entry[0][-1] not in a.eos][:n_beams]
        if len(ended) == n_beams and live[0][1] / step <= ended[-1][1] / len(ended[-1][0]):
            break
    return a.decode(list(ended[0][0])).strip()


COMPOSED = {
    "pai+beam": {"pai.alpha": 0.8, "pai.gamma": 1.5, "pai.first_token": "always"},
    "pai-attention+beam": {"pai.alpha": 0.8, "pai.gamma": 1.0},
    "var+beam": {"var.tau": 1.2, "var.rho": 0.2, "var.s0": 0.05, "var.take": 0.9},
    "vcd+beam": {"vcd.noise_step": 900, "vcd.beta": 0.01},
    "icd+beam": {"icd.instruction": "how many red cat do you see ?"},
    "m3id+beam": {"m3id.decay": 0.5, "m3id.certain": 1.0},
    "sparc+beam": {"sparc.alpha": 3.0, "sparc.tau": 0.02, "sparc.selection_layer": 1, "sparc.layers": [0, 2, 3]},
    "dola+beam": {"dola.layers": "low"},
}


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", COMPOSED)
def test_what_methods_keep_follows_the_beams(name, static):
    a, questions = adapter("llava"), asked(5)
    m = get_method(name.replace("-attention", ""), {**COMPOSED[name], "beam.beams": 3})
    engine = Engine(a, m)
    engine.static = static
    ours = {r.id: r.text for batch in engine.answer(questions) for r in batch}
    for question in (questions[2], questions[5], questions[6]):
        assert ours[question.id] == reference(a, m, question, 3)
    plain = answers(a, get_method("beam", {"beams": 3}), questions)
    assert ours != plain


@pytest.mark.parametrize("name", ["greedy", "sparc", "var+vcd"])
@pytest.mark.parametrize("static", [False, True])
def test_reordering_equals_keeping(name, static):
    """Rows 0 to 3 are of one prompt; what they generated moves, with what the method kept of it."""
    a, m = adapter("llava"), method(name)
    questions = [replace(requests()[0], id=str(i)) for i in range(4)]
    forced, index = forced_tokens(4, 4), torch.tensor([2, 2, 0, 1])
    expected = logits(a, m, questions, torch.cat((forced[index, :2], forced[:, 2:]), dim=1))[:, 3:]
    for move in ("reorder", "keep"):
        main = stream(a, m, questions, 4, static=static)
        with torch.inference_mode():
            main.prefill()
            main.step(forced[:, 0])
            main.step(forced[:, 1])
            getattr(main, move)(index)
            close(torch.stack([main.step(forced[:, 2]), main.step(forced[:, 3])], dim=1), expected)


class Words:
    """Stands in for an adapter: token 9 ends an answer."""

    eos = (9,)

    def decode(self, tokens):
        return " ".join(map(str, tokens))


def search(**settings: object) -> Hypotheses:
    return Hypotheses(Endings(Words(), Generation(num_beams=2, **settings)))


def test_hypotheses_that_end_leave_and_the_better_average_wins():
    two = search(max_new_tokens=9)
    first = [Candidate(0, 4, -1.0), Candidate(0, 9, -2.0), Candidate(0, 5, -3.0), Candidate(0, 6, -4.0)]
    assert two.advance(first) == [first[0], first[2]]
    assert two.live == [[4], [5]]
    # The live best is worth −2.4 / 2, better than the one that ended with −2: on goes the search.
    two.advance([Candidate(0, 7, -2.4), Candidate(1, 9, -3.2), Candidate(0, 8, -3.3), Candidate(1, 8, -3.9)])
    assert two.live == [[4, 7], [4, 8]]
    assert [(ended.worth, ended.tokens) for ended in two.ended] == [(-1.6, [5, 9]), (-2.0, [9])]
    # −6.3 / 3 is not better than −2.0, the worst of as many as there are beams.
    last = [Candidate(0, 7, -6.3), Candidate(1, 7, -6.4), Candidate(0, 8, -6.5), Candidate(1, 8, -6.6)]
    assert two.advance(last) == []
    assert (two.answer.tokens, two.answer.finish) == ([5, 9], "stop")


def test_an_end_below_the_beams_does_not_count():
    two = search(max_new_tokens=9)
    two.advance([Candidate(0, 4, -1.0), Candidate(0, 5, -2.0), Candidate(0, 9, -2.1), Candidate(0, 6, -4.0)])
    assert two.ended == []
    assert two.live == [[4], [5]]


def test_length_and_what_is_ruled_out():
    one = search(max_new_tokens=1)
    inf = float("inf")
    assert one.advance([Candidate(0, 4, -1.0), Candidate(0, 5, -inf), Candidate(0, 6, -inf)]) == []
    assert [(ended.tokens, ended.finish) for ended in one.ended] == [([4], "length")]


def test_stop_strings_may_end_more_than_was_foreseen():
    two = search(max_new_tokens=9, stop=("5", "6", "7"))
    chosen = two.advance([Candidate(0, token, -float(token)) for token in (4, 5, 6, 7)])
    assert [(c.token, c.score) for c in chosen] == [(4, -4.0), (4, -float("inf"))]
    assert [ended.tokens for ended in two.ended] == [[5]]


class Moves:
    """Stands in for a stream of as many samples as beams, and notes how rows move."""

    def __init__(self):
        self.moved = []

    def keep(self, index):
        self.moved.append(("keep", index.tolist()))

    def reorder(self, index):
        self.moved.append(("reorder", index.tolist()))

    def step(self, tokens):
        return next_scores(*[[3, 2, 1, 0]] * len(tokens))


def next_scores(*ranked) -> torch.Tensor:
    """Scores (B, 8) by which these tokens come first, the best first."""
    scores = torch.zeros(len(ranked), 8)
    for row, tokens in enumerate(ranked):
        scores[row, list(tokens)] = torch.arange(4.0, 0.0, -1.0)
    return scores


def test_rows_that_change_their_prompt_are_moved_as_a_whole():
    """Of three samples one lives on after the first step, with three beams: as many rows as before, of one prompt."""
    stream = Moves()
    stopped, other = (4, 5, 6, 7), (0, 1, 2, 3)
    prompts = [adapter("llava").encode(request(str(i), "one ?")) for i in range(3)]
    settings = Generation(num_beams=3, max_new_tokens=3, stop=("4", "5", "6"))
    found = BeamSearch(Words(), stream, prompts, settings).run(next_scores(stopped, stopped, other))
    assert stream.moved[0] == ("keep", [2, 2, 2])
    assert {move for move, _ in stream.moved[1:]} == {"reorder"}
    assert [(r.finish, r.new_tokens) for r in found] == [("stop", 1), ("stop", 1), ("length", 3)]


def test_beams_and_sampling_exclude_each_other():
    for name in ("sample+beam", "beam+sample"):
        with pytest.raises(UsageError, match="sampled or searched"):
            get_method(name).generation(Generation())
    with pytest.raises(UsageError, match="sampled or searched"):
        answers(adapter("llava"), get_method("beam"), [request("q", "one ?", do_sample=True)])


def test_a_request_can_ask_for_beams_itself():
    a = adapter("llava")
    assert answers(a, get_method("greedy"), asked(8, num_beams=5)) == answers(a, get_method("beam"), asked(8))
