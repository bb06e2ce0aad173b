"""OPERA: the penalty by hand, the search against plain beam search, and going back where a made pattern asks for it."""

from dataclasses import replace
from functools import partial
from math import exp, log

import pytest
import torch
from harness import adapter, answers, close, forced_tokens, logits, requests, stream

from sinkbench.engine.context import Context, Role, Stage
from sinkbench.engine.generate import Engine
from sinkbench.engine.retrospection import Retrospection, RetrospectiveSearch
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.opera import COLUMNS, ON_IMAGE, extend_columns, over_trust, trust_row
from sinkbench.request import Generation


def asked(max_new_tokens: int):
    return [replace(r, generation=replace(r.generation, max_new_tokens=max_new_tokens)) for r in requests()]


def test_a_row_is_the_largest_weight_of_any_head():
    weights = torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]])
    torch.testing.assert_close(trust_row(weights), torch.tensor([[0.5, 0.6, 0.3]]) / 1.4)


def test_column_scores_by_hand():
    """Columns of [[.5], [.2, .4], [.3, .1, .6]] at scale 10: 5·2·3 = 30, 4·1 = 4 and 6."""
    columns = None
    for row in ([[0.5]], [[0.2, 0.4]], [[0.3, 0.1, 0.6]]):
        columns = extend_columns(columns, torch.tensor(row), 10.0)
    torch.testing.assert_close(columns.exp(), torch.tensor([[30.0, 4.0, 6.0]]))
    penalty, token = over_trust(columns)
    torch.testing.assert_close(penalty, torch.tensor([3e-6]))
    assert token.tolist() == [0]


def test_column_scores_end_where_half_floats_do_and_may_be_nothing():
    penalty, token = over_trust(torch.tensor([[1.0, 500.0], [-float("inf"), -float("inf")]]))
    torch.testing.assert_close(penalty, torch.tensor([65504.0, 0.0]))
    assert token[0] == 1


def bound(**params: object):
    return get_method("opera", params).bind(adapter("llava").info)


def context(step: int) -> Context:
    roles = torch.tensor([[Role.TEMPLATE, Role.IMAGE, Role.IMAGE, Role.QUERY, *[Role.GENERATED] * step]])
    return Context(Stage.DECODE, roles, 1, step=step)


class View:
    def __init__(self, weights):
        self.weights = weights

    def rows(self, rows):
        return self.weights[:, :, None]


def test_the_last_layers_attention_is_rated_the_image_first():
    weights = torch.tensor([[[0.1, 0.2, 0.1, 0.1, 0.3, 0.2], [0.1, 0.1, 0.3, 0.1, 0.1, 0.3]]])
    opera, ctx = bound(penalty_weight=2.0), context(2)
    ctx.state[COLUMNS] = torch.tensor([[log(7.0)]])
    opera.observe_attention(0, View(weights), ctx)
    assert ON_IMAGE not in ctx.scratch
    opera.observe_attention(opera.last, View(weights), ctx)
    total = 0.1 + 0.2 + 0.3 + 0.1 + 0.3 + 0.3
    torch.testing.assert_close(ctx.state[COLUMNS].exp(), torch.tensor([[7 * 50 * 0.3 / total, 50 * 0.3 / total]]))
    rating, token = opera.rate_tokens(ctx)
    torch.testing.assert_close(rating, torch.tensor([-2 * 0.5 / total]))
    assert token.tolist() == [0]
    rating, _ = bound(penalty_weight=2.0, early_reward=False).rate_tokens(ctx)
    torch.testing.assert_close(rating, torch.tensor([2e-7 * 7 * 50 * 0.3 / total]))


def test_the_reward_ends_after_ten_tokens():
    opera = bound()
    for step, early in ((10, True), (11, False)):
        ctx = context(step)
        ctx.state[COLUMNS], ctx.scratch[ON_IMAGE] = torch.full((1, step), 16.0), torch.tensor([0.25])
        expected = -0.25 if early else 1e-7 * exp(16.0)
        torch.testing.assert_close(opera.rate_tokens(ctx)[0], torch.tensor([expected]))


OTHERS = {
    "": {},
    "pai+": {"pai.alpha": 0.8, "pai.gamma": 1.5, "pai.first_token": "always"},
    "sparc+": {"sparc.alpha": 3.0, "sparc.tau": 0.02, "sparc.selection_layer": 1, "sparc.layers": [0, 2, 3]},
}


@pytest.mark.parametrize(("family", "others"), [("qwen2_5_vl", ""), *(("llava", others) for others in OTHERS)])
def test_all_tokens_tried_and_none_dear_is_beam_search(family, others):
    a, questions, params = adapter(family), asked(6), OTHERS[others]
    everything = {"beams": 3, "candidates": 10**6, "threshold": 1000, "penalty_weight": 0.0}
    opera = get_method(f"{others}opera", {**params, **{f"opera.{key}": value for key, value in everything.items()}})
    beam = get_method(f"{others}beam", {**params, "beam.beams": 3})
    assert answers(a, opera, questions) == answers(a, beam, questions)


@pytest.mark.parametrize("others", OTHERS)
def test_going_back_restores_the_hypotheses_and_what_methods_keep_of_them(others):
    a, question = adapter("llava"), asked(6)[2]
    m = get_method(f"{others}opera", OTHERS[others])
    forced = forced_tokens(3, 4)
    settings = m.generation(question.generation)
    with torch.inference_mode():
        opened = partial(stream, a, m, [question], 6)
        search = RetrospectiveSearch(a, opened, a.encode(question), settings)
        search.stream.prefill()
        again = search._replay(forced.tolist())
        close(again, logits(a, m, [question] * 3, forced)[:, -1])
        scores = search._step([7, 8, 9])
        close(scores, logits(a, m, [question] * 3, torch.cat((forced, torch.tensor([[7], [8], [9]])), 1))[:, -1])
        _, token = search.stream.rate()
    assert search.stream.state[COLUMNS].shape[1] == 5
    assert token.shape == (3,)


def test_one_candidate_and_no_way_back_is_greedy():
    a, questions = adapter("llava"), asked(20)
    one = get_method("opera", {"candidates": 1, "threshold": 1000})
    assert answers(a, one, questions) == answers(a, get_method("greedy"), questions)


def test_the_penalty_and_the_reward_change_answers():
    a, questions = adapter("llava"), asked(8)
    base = {"beams": 3, "candidates": 4, "threshold": 1000}
    plain, rewarded, dear = (
        answers(a, get_method("opera", {**base, **more}), questions)
        for more in ({"penalty_weight": 0.0}, {"penalty_weight": 20.0}, {"early_reward": False, "scale_factor": 1e4})
    )
    assert plain != rewarded
    assert plain != dear
    assert rewarded["text"] == plain["text"], "without an image there is nothing to reward"


def trusted(*beams: int) -> torch.Tensor:
    return torch.tensor([[beam] * 3 for beam in beams])


def test_it_goes_back_where_every_beam_has_trusted_one_token_for_long():
    memory = Retrospection(patience=2, returns=2)
    memory.chosen = [[(0, step), (1, 50 + step)] for step in range(20)]
    for _ in range(2):
        assert memory.where_to(trusted(12, 12)) is None
    assert memory.where_to(trusted(12, 13)) is None, "the second beam has trusted token 12 twice only"
    assert memory.where_to(trusted(12, 12)) == 13
    memory.go_back(13)
    assert memory.rejected == {13: {(0, 13), (1, 63)}}
    assert len(memory.chosen) == 13


def test_it_gives_up_on_a_step_after_as_many_returns_as_candidates():
    memory = Retrospection(patience=0, returns=1)
    for expected in (13, 12, None):
        memory.chosen = [[(0, 0)] for _ in range(20)]
        step = memory.where_to(trusted(12, 12))
        assert step == expected
        if step is not None:
            memory.go_back(step)
    assert set(memory.rejected) == {12}, "what was rejected later than where it went back to is open again"


def test_it_never_goes_back_to_the_first_tokens_or_to_what_is_not_chosen_yet():
    memory = Retrospection(patience=0, returns=5)
    memory.chosen = [[(0, 0)] for _ in range(20)]
    assert memory.where_to(trusted(9, 9)) is None
    assert memory.where_to(trusted(19, 19)) is None


def search_with(pattern, candidates: int = 3, beams: int = 2, patience: int = 4, tokens: int = 24):
    """A search on a tiny model with made-up ratings: the answer's tokens, decode passes, how often it went back."""
    a = adapter("llava")
    prompt = a.encode(asked(tokens)[6])
    engine = Engine(a, get_method("opera", {"beams": beams, "candidates": candidates, "threshold": patience}))
    (lane,) = engine.lanes.values()
    lane.method.rate_tokens = pattern
    settings = replace(lane.generation(prompt.request.generation), ignore_eos=True)
    made = []

    def opened():
        from sinkbench.engine.prefix import prefill_prefixes
        from sinkbench.engine.stream import Stream

        prefixes = prefill_prefixes(a, {"m": lane.method}, [prompt], {})
        made.append(Stream(a, lane.method, "m", [prompt], prefixes, tokens))
        return made[-1]

    with torch.inference_mode():
        search = RetrospectiveSearch(a, opened, prompt, settings)
        search.endings.response = lambda prompt, tokens, finish: tokens
        return search.run(), search.steps, len(made) - 1


def never(ctx):
    n = len(ctx.roles)
    return torch.zeros(n), torch.full((n,), ctx.step - 1)


def always_twelve(ctx):
    n = len(ctx.roles)
    return torch.zeros(n), torch.full((n,), min(12, ctx.step - 1))


def test_a_made_pattern_makes_the_search_go_back():
    straight, steps, went_back = search_with(never)
    assert (len(straight), steps, went_back) == (24, 24, 0)
    other, steps, went_back = search_with(always_twelve)
    # Three returns to the step after token 12, then three to that of token 12 itself.
    assert (len(other), went_back) == (24, 6)
    assert other != straight
    # Each time the 12 or 13 tokens before are run once more.
    assert steps > 24 + 6 * 12


def test_what_was_chosen_where_it_went_back_to_is_not_chosen_again():
    """With one candidate and one beam there is one way, up to the step that is chosen anew."""
    straight, _, _ = search_with(never, candidates=1, beams=1)
    other, _, went_back = search_with(always_twelve, candidates=1, beams=1)
    assert went_back == 2
    assert straight[:12] == other[:12]
    assert straight[12] != other[12]


@pytest.mark.parametrize(
    ("params", "says"),
    [({"beams": 0}, "opera.beams=0"), ({"candidates": 0}, "opera.candidates=0"), ({"scale_factor": 0.0}, "leaves no")],
)
def test_mistakes_are_named(params, says):
    with pytest.raises(UsageError, match=says):
        get_method("opera", params)


def test_it_does_not_sample():
    with pytest.raises(UsageError, match="sampled or searched"):
        get_method("sample+opera", {"opera.beams": 1, "opera.candidates": 1}).generation(Generation())


def test_the_settings_of_the_search():
    settings = get_method("opera").generation(Generation(max_new_tokens=7))
    assert settings == Generation(max_new_tokens=7, num_beams=5, candidates=5, patience=15)
    assert settings.rows == 25
    assert get_method("opera", {"profile": "fast"}).params()["threshold"] == 25
