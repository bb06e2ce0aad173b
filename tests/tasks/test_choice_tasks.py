"""What the multiple-choice benchmarks have in common."""

import pytest

from sinkbench.errors import UsageError
from sinkbench.scoring.letters import PARSERS
from sinkbench.spec import expand
from sinkbench.tasks import check_data, task_info

TASKS = (
    *("mmbench_en", "mmbench_cn", "mmbench_en_20230712", "scienceqa_img", "seed_image", "mmstar"),
    *("cvbench_2d", "cvbench_3d", "cvbench_overall", "realworldqa", "mmvp"),
)


@pytest.mark.parametrize("name", TASKS)
def test_hub_ids_profiles_and_parsers_can_be_chosen(name):
    info = task_info(name)
    assert {"hub", "hub_fallback", "revision", "prompt", "parser"} <= set(info.params)
    assert set(info.choices["parser"]) <= {*PARSERS, "exact"}
    assert info.generation["until"] == []
    assert not info.generation["do_sample"]


@pytest.mark.parametrize("name", TASKS)
def test_out_of_reach_says_what_to_do(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE") as caught:
        check_data(name)
    assert task_info(name).hub in caught.value.message
    assert "--data-dir" in caught.value.hint
    assert "(index" in caught.value.hint or "schema" in caught.value.hint


def test_groups_stand_for_their_tasks():
    specs = expand({"model": "tiny-llava", "task": "mmbench,cvbench"})
    assert [spec.task for spec in specs] == ["mmbench_en", "mmbench_cn", "cvbench_2d", "cvbench_3d"]
