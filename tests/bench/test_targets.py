"""What numbers are held to: arithmetic on a record."""

import copy

import pytest

from sinkbench.bench.targets import RATES_FOR, add_ratios, against_plain, judge

NAME, DTYPE, DEVICE = RATES_FOR


def row(method, workload="pope", batch=1152, batch_size="auto", **numbers):
    return {
        "workload": workload,
        "batch_size": batch_size,
        "batch": batch,
        "parameters": {},
        "method": method,
        "leaves_prefix": True,
        "answers_per_s": None,
        "tokens_per_s": None,
        "peak_bytes": None,
        "error": "",
        **numbers,
    }


@pytest.fixture
def record():
    rows = [
        row("greedy", answers_per_s=500.0, peak_bytes=100),
        row("var", answers_per_s=440.0, peak_bytes=111),
        row("greedy", "caption", 128, 128, tokens_per_s=6100.0, answers_per_s=11.0, peak_bytes=200),
        row("pai", "caption", 128, 128, tokens_per_s=5500.0, answers_per_s=10.0, peak_bytes=210),
        row("greedy", "caption", 1, 1, tokens_per_s=140.0, answers_per_s=0.3, peak_bytes=50),
    ]
    baselines = [
        {**row("transformers eager", batch=1, answers_per_s=17.0), "attention": "eager"},
        {**row("transformers sdpa", batch=8, answers_per_s=47.0), "attention": "sdpa"},
        {**row("transformers sdpa", batch=32, answers_per_s=50.0), "attention": "sdpa"},
        {**row("transformers sdpa", "caption", 128, 128, tokens_per_s=1500.0), "attention": "sdpa"},
    ]
    add_ratios(rows)
    model = {"name": NAME, "dtype": DTYPE}
    return {"model": model, "device": DEVICE, "rows": rows, "baselines": baselines, "end_to_end": []}


def judged(record):
    return {entry["name"]: entry for entry in judge(record)}


def test_ratios_are_taken_against_greedy_on_the_same_batches(record):
    ratios = [row["ratio_to_greedy"] for row in record["rows"]]
    assert ratios[1] == {"answers_per_s": 0.88, "tokens_per_s": None, "peak_bytes": 1.11}
    assert ratios[3]["tokens_per_s"] == pytest.approx(5500 / 6100)
    assert ratios[4]["tokens_per_s"] == 1


def test_a_row_on_other_batches_is_compared_with_none():
    rows = [row("greedy", answers_per_s=500.0), row("var", batch_size=64, answers_per_s=440.0)]
    add_ratios(rows)
    assert rows[1]["ratio_to_greedy"]["answers_per_s"] is None


def test_targets_are_met_or_missed(record):
    targets = judged(record)
    assert {name: entry["met"] for name, entry in targets.items()} == {
        "pope, batch 1152, greedy: answers/s": True,
        "pope, batch 1152, var: answers/s": False,
        "pope, batch 1152, var: answers_per_s over greedy's": False,
        "pope, batch 1152, var: peak memory over greedy's": False,
        "caption, batch 128, greedy: tokens/s": True,
        "caption, batch 128, pai: tokens_per_s over greedy's": True,
        "caption, batch 128, pai: peak memory over greedy's": True,
        "caption, batch 1, greedy: tokens/s": False,
    }
    assert targets["pope, batch 1152, var: answers/s"]["measured"] == 440


@pytest.mark.parametrize("other", [("device", "cpu"), ("model", {"name": NAME, "dtype": "float32"})])
def test_rates_are_judged_only_where_they_were_set(record, other):
    record = {**record, other[0]: other[1]}
    assert not any("greedy: " in name for name in judged(record))
    assert "pope, batch 1152, var: answers_per_s over greedy's" in judged(record)


def test_a_row_without_numbers_misses_its_targets(record):
    rows = copy.deepcopy(record["rows"])
    rows[1] |= {"answers_per_s": None, "error": "out of memory"}
    add_ratios(rows)
    target = judged({**record, "rows": rows})["pope, batch 1152, var: answers_per_s over greedy's"]
    assert (target["measured"], target["met"]) == (None, False)


def test_a_method_that_edits_the_prefix_owes_no_answers_per_second(record):
    rows = [{**each, "leaves_prefix": False} for each in record["rows"]]
    names = judged({**record, "rows": rows})
    assert "pope, batch 1152, var: answers_per_s over greedy's" not in names
    assert "caption, batch 128, pai: tokens_per_s over greedy's" in names


def test_end_to_end_is_judged(record):
    record = {**record, "end_to_end": [{"method": "greedy", "ratio": 0.79}]}
    assert judged(record)["end to end, greedy: over the device's rate"]["met"] is False


def test_the_cost_of_looking_is_judged(record):
    arms = {
        "plain prefill": {"time_ratio": 1.0, "memory_ratio": 1.0},
        "probe": {"time_ratio": 1.3, "memory_ratio": 1.05},
        "findings": {"time_ratio": 1.31, "memory_ratio": 1.2},
    }
    judged_of = judged({**record, "inspection": [{"workload": "inspect", "batch": 90, "arms": arms}]})
    found = {name: entry["met"] for name, entry in judged_of.items() if name.startswith("inspect")}
    assert found == {
        "inspect, batch 90, probe: time over plain prefill's": True,
        "inspect, batch 90, probe: peak memory over plain prefill's": True,
        "inspect, batch 90, findings: time over plain prefill's": False,
        "inspect, batch 90, findings: peak memory over plain prefill's": False,
    }


def test_plain_transformers_is_taken_at_its_best_batch_for_answers(record):
    found = {(entry["workload"], entry["attention"]): entry for entry in against_plain(record)}
    assert found["pope", "sdpa"]["plain_batch"] == 32
    assert found["pope", "sdpa"]["ratio"] == 10
    assert found["pope", "eager"]["ratio"] == pytest.approx(500 / 17)
    assert found["caption", "sdpa"]["ours"] == 6100
    assert len(found) == 3  # Nothing was measured beside captions at batch 1.


@pytest.mark.parametrize(("rate", "cache", "met"), [(38.0, 10, [True, True]), (37.9, 12, [False, False])])
def test_published_speed_of_pruned_models(record, rate, cache, met):
    pruned = row("vflowopt", "prune", 1, 1, answers_per_s=rate, prompt_kv_bytes=cache, keep=0.1, image_tokens=4450)
    rows = [row("greedy", "prune", 1, 1, answers_per_s=10.0, prompt_kv_bytes=100, keep=1.0), pruned]
    add_ratios(rows)
    here = {**record, "rows": rows, "model": {"name": "llava-onevision-7b", "dtype": DTYPE}}
    assert [target["met"] for target in judge(here)] == met
    assert judge({**here, "model": {"name": "llava-next-7b", "dtype": DTYPE}}) == []
    counted = [rows[0], {**pruned, "keep": 445.0}]
    assert [target["met"] for target in judge({**here, "rows": counted})] == met
    assert judge({**here, "rows": [rows[0], {**pruned, "keep": 0.25}]}) == []
    failed = {**pruned, "error": "out of memory", "answers_per_s": None, "ratio_to_greedy": {}}
    assert [target["met"] for target in judge({**here, "rows": [failed]})] == [False, False]
