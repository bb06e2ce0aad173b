"""`sinkbench list tasks` as a user sees it."""

import pytest

from sinkbench.tasks import task_groups, task_names


def test_all_tasks_and_groups_are_listed(here):
    shown = here("list", "tasks")
    assert shown.returncode == 0, shown.stderr
    for name in (*task_names(), *task_groups()):
        assert f" {name} " in shown.stdout


def test_one_task_in_full(here):
    shown = here("list", "tasks", "pope").stdout
    for words in ("lmms-lab/POPE", "pope.parser", "opera_pai", "pope.prompt", "adversarial/f1 ↑", "pope.revision"):
        assert words in shown


def test_a_group_shows_its_members(here):
    shown = here("list", "tasks", "mmbench").stdout
    assert "mmbench_cn" in shown
    assert "pope" not in shown


def test_a_misspelt_name(here):
    refused = here("list", "tasks", "mmbnech")
    assert refused.returncode == 2
    assert "mmbench" in refused.stderr


@pytest.mark.parametrize("group", task_groups())
def test_members_of_groups_are_tasks(group):
    assert {*task_groups()[group]} <= {*task_names()}
