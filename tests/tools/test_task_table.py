"""docs/tasks.md's table of tasks is the one that their YAML gives."""

import pytest
import task_table

from sinkbench.tasks import task_groups, task_names


def test_the_page_is_up_to_date():
    page = task_table.PAGE.read_text(encoding="utf-8")
    assert page == task_table.insert(page), "stale: run `python tools/task_table.py --write`"


def test_every_task_and_group_is_there():
    lines = task_table.table().splitlines()
    assert all(sum(line.startswith(f"| `{name}` |") for line in lines) == 1 for name in task_names())
    assert all(f"`{name}`: " in lines[-1] for name in task_groups())
    (pope,) = (line for line in lines if line.startswith("| `pope` |"))
    assert "`lmms-lab/POPE`, a folder" in pope
    assert "opera_pai" in pope


def test_a_page_without_its_place_is_refused():
    with pytest.raises(ValueError, match="not marked once"):
        task_table.insert("nothing")
