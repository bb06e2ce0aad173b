import re
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from sinkbench.scenes.dialogue import training_turns, vocabulary
from sinkbench.scenes.language import caption, some, with_article, words
from sinkbench.scenes.questions import DESCRIBE, DESCRIBE_ALTERNATIVES, LETTERS, facts, is_there
from sinkbench.scenes.scene import SceneObject, scene_rng
from sinkbench.scenes.world import CATEGORIES


@pytest.fixture(scope="module")
def conversations(scenes):
    return [(s, training_turns(s, scene_rng(s.split, s.seed, s.index, "dialogue"))) for s in scenes]


def named_categories(text):
    """Categories named in a caption, longest names first, so that "hot dog" is no dog."""
    names = {form: c.name for c in CATEGORIES.values() for form in (c.name, c.plural)}
    found = set()
    text = re.sub(r"A sign says \w+\.", "", text)
    for form in sorted(names, key=len, reverse=True):
        text, n = re.subn(rf"\b{form}\b", "", text)
        found |= {names[form]} if n else set()
    return found


def test_the_vocabulary_covers_all_training_text_and_stays_small(conversations):
    known = vocabulary()
    assert len(known) == len(set(known)) <= 260
    used = {token for _, turns in conversations for turn in turns for text in turn for token in words(text)}
    assert used <= set(known)


def test_yes_and_no_questions_are_balanced_and_true(conversations):
    for scene, turns in conversations:
        answers = Counter()
        for question, answer in turns:
            if match := re.match(r"Is there an? (.+?) in the image\?", question):
                assert (match[1] in scene.counts) == (answer == "yes")
                answers[answer] += 1
        assert answers["yes"] == answers["no"] == min(answers["yes"], 4)
        assert answers["yes"] >= min(3, len(scene.counts))


def test_negatives_are_random_popular_and_likely(conversations):
    asked = Counter(
        match[1]
        for _, turns in conversations
        for question, answer in turns
        if answer == "no" and (match := re.match(r"Is there an? (.+?) in the image\?", question))
    )
    assert len(asked) > 55
    assert asked["person"] > 3 * asked["toothbrush"]


def test_there_is_one_caption_first_or_last(conversations):
    prompts = {DESCRIBE, *DESCRIBE_ALTERNATIVES}
    places = Counter()
    for _, turns in conversations:
        at = [number for number, (question, _) in enumerate(turns) if question in prompts]
        assert at in ([0], [len(turns) - 1])
        places[at == [0]] += 1
    assert min(places.values()) > 0.4 * len(conversations)


def test_captions_name_what_is_there_and_the_absent_ones_asked_for(scenes):
    for scene in scenes[:100]:
        text = caption(scene, Random(0), absent=scene.mentioned_absent)
        assert named_categories(text) == set(scene.counts) | set(scene.mentioned_absent)
        assert named_categories(caption(scene, Random(0), share=0.5)) <= set(scene.counts)


def test_an_absent_object_is_never_named_first(scenes):
    scene = next(s for s in scenes if len(s.counts) == 2)
    for seed in range(30):
        assert not caption(scene, Random(seed), absent=["toilet"]).split(" with ")[1].startswith("a toilet")


def test_multiple_choice_answers_point_at_the_right_option(conversations):
    seen = Counter()
    for scene, turns in conversations:
        truth = {fact.question: fact.answer for fact in facts(scene)}
        for prompt, answer in turns:
            options = dict(re.findall(r"^([A-D])\. (.+)$", prompt, re.M))
            if options:
                assert options[answer] == truth[prompt.split("\n")[0]]
                assert len(set(options.values())) == len(LETTERS)
                seen[answer] += 1
    assert min(seen[letter] for letter in LETTERS) > 0.2 * sum(seen.values())


def test_facts_of_a_known_scene(scenes):
    things = (
        SceneObject("car", "red", 50, 40, 30),
        SceneObject("dog", "0", 180, 190, 30),
        SceneObject("dog", "1", 140, 190, 30),
        SceneObject("cat", "0", 112, 190, 30),
    )
    found = {f.question: f.answer for f in facts(replace(scenes[0], objects=things))}
    assert found["What color is the car?"] == "red"
    assert found["Where is the car in the image?"] == "top left"
    assert found["How many dogs are there in the image?"] == "two"
    assert "Where is the dog in the image?" not in found
    assert "Where is the cat in the image?" not in found


def test_articles_and_plurals():
    assert is_there("elephant") == "Is there an elephant in the image?"
    assert with_article("umbrella") == "an umbrella"
    assert some("knife", 3) == "three knives"
    assert some("scissors", 1) == "scissors"
    assert some("car", 1, "red") == "a red car"


def test_words_keep_letters_of_options_apart():
    assert words("A. top left\nthe option's") == ["A", ".", "top", "left", "the", "option", "'", "s"]


def test_a_scene_with_everything_that_is_likely_still_has_absent_categories():
    """Scenes so crowded are rare: this is one of about two in 10 000."""
    from sinkbench.scenes.scene import likely_absent, sample_scene
    from sinkbench.scenes.world import KINDS

    scenes = (sample_scene("train", 0, i) for i in range(30_000))
    crowded = [s for s in scenes if len(likely_absent(KINDS[s.kind], set(s.counts))) < 2]
    assert crowded
    for scene in crowded:
        for seed in range(20):
            training_turns(scene, Random(seed))
