from collections import Counter, defaultdict
from itertools import combinations, pairwise

import pytest

from sinkbench.scenes.questions import facts
from sinkbench.scenes.rows import ROTATION, chair_rows, mcq_rows, pope_rows, synonym_lines, text_rows
from sinkbench.scenes.scene import sample_scene


@pytest.fixture(scope="module")
def eligible():
    scenes = (sample_scene("val", 4, index) for index in range(500))
    return [scene for scene in scenes if len(scene.counts) >= 3]


@pytest.fixture(scope="module")
def pope(eligible):
    return pope_rows(eligible)


def scene_of(row, scenes):
    return scenes[int(row["image"][:6]) - 1]


def test_pope_asks_three_yes_and_three_no_questions_an_image_and_split(pope, eligible):
    groups = defaultdict(list)
    for row in pope:
        groups[row["image"], row["category"]].append(row)
    assert len(groups) == 3 * len(eligible)
    for rows in groups.values():
        assert [row["answer"] for row in rows] == ["yes", "no"] * 3
        assert len({row["object"] for row in rows}) == 6
    assert [row["id"] for row in pope] == list(range(len(pope)))


def test_pope_answers_are_true(pope, eligible):
    for row in pope:
        assert (row["object"] in scene_of(row, eligible).counts) == (row["answer"] == "yes")
        assert f" {row['object']} " in row["question"]


def test_pope_asks_the_same_yes_questions_in_every_split(pope):
    asked = {
        split: [(r["image"], r["object"]) for r in pope if r["category"] == split and r["answer"] == "yes"]
        for split in ("random", "popular", "adversarial")
    }
    assert asked["random"] == asked["popular"] == asked["adversarial"]


def test_popular_negatives_are_the_most_frequent_absent_categories(pope, eligible):
    frequency = Counter(name for scene in eligible for name in scene.counts)
    negatives = defaultdict(list)
    for row in pope:
        if row["category"] == "popular" and row["answer"] == "no":
            negatives[row["image"]].append(row["object"])
    for image, chosen in negatives.items():
        present = scene_of({"image": image}, eligible).counts
        left = [n for name, n in frequency.items() if name not in present and name not in chosen]
        assert min(frequency[name] for name in chosen) >= max(left)


def test_adversarial_negatives_stand_beside_what_is_there_more_than_random_ones(pope, eligible):
    together = Counter()
    for scene in eligible:
        together.update(frozenset(pair) for pair in combinations(scene.counts, 2))

    def mean(split):
        rows = [row for row in pope if row["category"] == split]
        scores = [
            together[frozenset((positive["object"], negative["object"]))]
            for positive, negative in zip(rows[::2], rows[1::2], strict=True)
        ]
        return sum(scores) / len(scores)

    assert mean("adversarial") > 2 * mean("random")
    assert mean("adversarial") > mean("popular")


def test_mcq_rotations_follow_the_index_rule(eligible):
    groups = defaultdict(list)
    for row in mcq_rows(eligible):
        groups[row["index"] % ROTATION].append(row)
    assert sorted(groups) == list(range(len(eligible)))
    for base, rows in groups.items():
        assert [row["index"] for row in rows] == [base + r * ROTATION for r in range(4)]
        assert {row["answer"] for row in rows} == set("ABCD")
        assert len({row[row["answer"]] for row in rows}) == 1
        truth = {fact.question: fact.answer for fact in facts(eligible[base])}
        assert rows[0][rows[0]["answer"]] == truth[rows[0]["question"]]
        for before, after in pairwise(rows):
            assert [after[k] for k in "ABCD"] == [before[k] for k in "BCDA"]


def test_mcq_covers_all_topics_and_counts_beyond_one(eligible):
    base = [row for row in mcq_rows(eligible) if row["index"] < ROTATION]
    topics = Counter(row["category"] for row in base)
    assert set(topics) == {"counting", "position", "attribute", "scene"}
    assert min(topics.values()) > 0.1 * len(base)
    counts = Counter(row[row["answer"]] for row in base if row["category"] == "counting")
    assert counts["one"] < 0.5 * sum(counts.values())


def test_text_rows_belong_to_images_with_a_sign(eligible):
    rows = text_rows(eligible)
    assert len(rows) == sum(scene.sign is not None for scene in eligible) > 0
    for row in rows:
        assert row["answers"] == [scene_of(row, eligible).sign.text] * 10


def test_chair_rows_list_what_is_there(eligible):
    rows = chair_rows(eligible)
    assert [row["image_id"] for row in rows] == list(range(1, len(eligible) + 1))
    assert all(set(row["objects"]) == set(scene_of(row, eligible).counts) for row in rows)


def test_synonym_lines_split_on_comma_and_space():
    lines = synonym_lines()
    assert len(lines) == 68
    assert lines[0].split(", ")[:2] == ["person", "people"]
    assert all(entry == entry.strip() != "" for line in lines for entry in line.split(", "))
