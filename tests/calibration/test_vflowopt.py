"""The calibrator of `vflowopt`: what it compares, what it searches, and what it hands back."""

import sys

import pytest
import torch
from harness import adapter, image, preprocessed, request

from sinkbench.calibration.base import Bench, Question
from sinkbench.calibration.run import Settings, calibrate
from sinkbench.calibration.vflowopt import KEEP, LastStates, SearchRates
from sinkbench.errors import UsageError
from sinkbench.methods import get_method
from sinkbench.methods.pruning.vflowopt import VFlowOpt, mean_rate, stage_layers

FAST = {"samples": 2, "trials": 7, "startup": 4}


def questions(n: int) -> list[Question]:
    return [Question(request(str(i), "<image>\nis there a dog ?", image(i, 60, 30)), "yes") for i in range(n)]


def bench(family: str = "llava", method: VFlowOpt | None = None, **changes) -> Bench:
    return Bench(adapter(family), method or VFlowOpt(), changes.pop("questions", questions(3)), **changes)


def asked(n: int = 3):
    return [question.request for question in questions(n)]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
@torch.inference_mode()
def test_the_state_of_the_whole_model_is_that_of_transformers(family):
    a = adapter(family)
    states = LastStates(a, asked(1), "auto").under(None)
    (prompt,) = [a.encode(each) for each in asked(1)]
    (encoded,) = a.encode_images([*preprocessed(a, [prompt]).values()])
    places = prompt.ids == a.image_token
    embeds = a.embed(prompt.ids.masked_fill(places, 0)[None])
    embeds[0, places] = encoded.tokens
    positions = prompt.positions[0] if len(prompt.positions) == 1 else prompt.positions[:, None]
    positions = positions[None] if positions.ndim == 1 else positions
    out = a.language_model(inputs_embeds=embeds, position_ids=positions, use_cache=False)
    torch.testing.assert_close(states, out.last_hidden_state[:, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl"])
def test_states_do_not_depend_on_the_batch_and_change_under_pruning(family):
    a = adapter(family)
    together, singly = (LastStates(a, asked(), size) for size in ("auto", 1))
    pruning = VFlowOpt(r1=0.6, r2=0.6, r3=0.5, t=1.0, a=2.0, alpha=0.3).bind(a.info)
    for method in (None, pruning):
        torch.testing.assert_close(together.under(method), singly.under(method), atol=1e-4, rtol=1e-4)
    assert (together.under(None) - together.under(pruning)).abs().max() > 1e-2
    assert torch.equal(together.under(None), together.under(None)), "no trial changes the next"
    neutral = together.under(VFlowOpt(r1=1.0).bind(a.info))
    torch.testing.assert_close(neutral, together.under(None), atol=1e-4, rtol=1e-4)


def test_the_best_trial_is_found_again_by_its_parameters():
    done = []
    found = SearchRates(**FAST).measure(bench(progress=lambda *step: done.append(step)))
    trials = found.evidence["trials"]
    assert done == [(number, 7) for number in range(1, 8)]
    assert len({trial["r1"] for trial in trials}) == 7
    best = max(trials, key=lambda trial: trial["cosine"])
    assert {name: found.params[name] for name in ("r1", "r2", "t", "a", "alpha")} == {
        name: value for name, value in best.items() if name != "cosine"
    }
    assert found.params["keep"] == KEEP
    assert found.evidence["questions"] == 2
    assert found.table[0] == ("r1", "r2", "t", "a", "alpha", "cosine")
    assert found.table[1][-1] == f"{best['cosine']:.4f}"

    a = adapter("llava")
    chosen = get_method("vflowopt", found.params)
    # The first and the second of three, taken evenly.
    states = LastStates(a, asked(2), "auto")
    cosines = torch.cosine_similarity(states.under(None), states.under(chosen.bind(a.info)), dim=1)
    assert float(cosines.mean()) == pytest.approx(best["cosine"], abs=1e-4)


@pytest.mark.parametrize(("keep", "layers"), [(0.1, ()), (0.25, ()), (0.5, (2, 5)), (0.9, (4, 5))])
def test_every_trial_has_the_mean_rate_that_is_asked_for(keep, layers):
    found = SearchRates(samples=1, trials=12, startup=12).measure(bench(method=VFlowOpt(keep=keep, layers=layers)))
    info = adapter("llava").info
    for trial in found.evidence["trials"]:
        r1, r2 = trial["r1"], trial["r2"]
        bound = VFlowOpt(keep=keep, r1=r1, r2=r2, layers=layers).bind(info)
        where = stage_layers(layers, info)
        r3 = bound.rates.get(where[1], 1.0)
        assert mean_rate(r1, r2, r3, where, info.n_layers) == pytest.approx(keep, abs=1e-3)
        assert keep - 1e-4 <= r1 <= 1.5 * keep + 1e-4
        assert 0.5329 <= r2 <= 1
        assert 0 <= trial["t"] <= 50
        assert 3 <= trial["a"] <= 24
        assert -1 <= trial["alpha"] <= 1
    assert found.evidence["mean_rate"] == pytest.approx(keep, abs=1e-3)
    assert found.params.get("layers", ()) == layers


def test_the_seed_decides():
    def search(seed):
        return SearchRates(**FAST).measure(bench(seed=seed)).evidence["trials"]

    assert search(1) == search(1)
    assert search(1) != search(2)


def test_after_the_drawn_trials_the_process_leads_to_better_ones(monkeypatch):
    """A smooth objective in place of the model: the best of those that are suggested beats those that are drawn."""

    def under(self, method):
        if method is None:
            return torch.tensor([[1.0, 0.0]])
        distance = (method.seen.t / 50 - 0.3) ** 2 + (method.seen.alpha - 0.5) ** 2 + (method.method.a / 24 - 0.6) ** 2
        return torch.tensor([[1.0, distance]])

    monkeypatch.setattr(LastStates, "under", under)
    trials = SearchRates(samples=1, trials=30, startup=10).measure(bench()).evidence["trials"]
    drawn, led = (max(trial["cosine"] for trial in part) for part in (trials[:10], trials[10:]))
    assert led > drawn
    assert led > 0.9999


def test_states_that_cannot_be_compared_count_as_nothing(monkeypatch):
    monkeypatch.setattr(LastStates, "under", lambda self, method: torch.full((1, 2), torch.nan))
    found = SearchRates(**FAST).measure(bench())
    assert {trial["cosine"] for trial in found.evidence["trials"]} == {0.0}


def test_what_the_rates_were_tried_with_goes_with_them():
    found = SearchRates(**FAST).measure(bench(method=VFlowOpt(keep=0.4, exact=True, base="sum", layers=(1, 4))))
    assert (found.params["keep"], found.params["exact"], found.params["base"]) == (0.4, True, "sum")
    assert found.params["layers"] == (1, 4)
    assert "compat" not in found.params


def test_a_model_whose_pixels_are_not_known_is_searched_without_entropy(monkeypatch):
    monkeypatch.setattr(adapter("llava").processor.image_processor, "do_normalize", False)
    found = SearchRates(**FAST).measure(bench())
    assert {trial["alpha"] for trial in found.evidence["trials"]} == {0.0}


def test_questions_without_images_are_refused():
    texts = [Question(request("t", "how many are there ?"), "two")]
    with pytest.raises(UsageError, match="show no image"):
        SearchRates(**FAST).measure(bench(questions=texts))


@pytest.mark.parametrize("settings", [{"samples": 0}, {"trials": 3, "startup": 4}, {"startup": 0}])
def test_settings_that_search_nothing_are_refused(settings):
    with pytest.raises(UsageError, match=r"vflowopt\.samples"):
        SearchRates(**settings)


def test_a_missing_package_is_named_before_anything_is_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match="needs optuna") as refused:
        SearchRates().check_task("scenes_pope")
    assert refused.value.hint.startswith("pip install optuna")


def test_from_the_command_to_a_run(model, learning, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    params = {f"vflowopt.{name}": value for name, value in FAST.items()} | {"vflowopt.keep": 0.3}
    outcome = calibrate(Settings("vflowopt", str(model), "scenes_pope", params, data_dir=learning))
    assert outcome.calibration.params["keep"] == 0.3
    found = get_method("vflowopt", {}, "tiny-random", {"vflowopt": outcome.calibration})
    assert found.params()["r1"] == outcome.calibration.params["r1"]
    found.bind(adapter("llava").info)
    assert outcome.calibration.evidence["questions"] == 2
