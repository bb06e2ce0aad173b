"""Methods as they are measured must act: a method that does nothing is as fast as greedy."""

import pytest
from harness import forced_tokens, logits

from sinkbench.bench.settings import variant_names
from sinkbench.bench.variants import made_up_parameters, variant
from sinkbench.bench.workloads import pope
from sinkbench.request import Generation


@pytest.mark.parametrize("name", [name for name in variant_names() if name != "greedy"])
def test_every_method_changes_the_logits_of_random_weights(tiny, images, name):
    chosen = variant(name, tiny.info, made_up_parameters(tiny, images[:4]))
    if chosen.refocuses or chosen.generation(Generation()) != Generation():
        return  # It answers another request, or chooses tokens in another way from the same logits.
    made_up, requests = made_up_parameters(tiny, images[:4]), pope(images[:2], 2).requests
    plain, edited = (
        logits(tiny, variant(each, tiny.info, made_up), requests, forced_tokens(len(requests), 8))
        for each in ("greedy", name)
    )
    assert (plain != edited).any(-1).any(-1).all()


def test_pai_can_be_measured_without_its_second_branch(tiny):
    assert variant("pai", tiny.info, {}).contrasts
    assert not variant("pai-attention", tiny.info, {}).contrasts
    both = variant("var+pai-attention", tiny.info, {"var": {"tau": 2.0, "sink_dims": [1]}}).params()
    assert (both["pai.gamma"], both["var.tau"]) == (1.0, 2.0)


def test_a_part_of_compositions_is_measured_in_one(tiny):
    assert variant("fastv+debias", tiny.info, {}).params()["debias.trend"] == (1.0,)


def test_given_values_go_first_and_a_profile_stands_alone(tiny):
    assert variant("fastv+debias", tiny.info, {}, {"debias.trend": [2.0], "other.x": 1}).params()["debias.trend"] == (
        2.0,
    )
    assert variant("vflowopt", tiny.info, {}, {"vflowopt.profile": "keep-10"}).params()["r1"] == 0.1166
    assert variant("pai-attention", tiny.info, {}, {"pai.alpha": 0.3}).params() == variant(
        "pai-attention", tiny.info, {}
    ).params() | {"alpha": 0.3}
