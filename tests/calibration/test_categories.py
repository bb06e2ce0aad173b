"""Where an object is, in the picture's tokens and in the question's."""

import numpy as np
import pytest
from harness import CORE_FAMILIES, adapter, image, request

from sinkbench.adapters.views import View
from sinkbench.calibration.base import Question
from sinkbench.calibration.categories import COARSE, FINE, answer_tokens, object_tokens, token_codes
from sinkbench.engine.context import Role

GRID = np.arange(12).reshape(3, 4)
VIEW = View("image", 0, GRID, (0, 0, 40, 30))


def names(codes, categories=FINE):
    return [("", *categories)[code] for code in codes.tolist()]


def test_a_token_is_the_objects_where_its_centre_lies_in_a_box():
    # Cells of 10 × 10; centres at 5, 15, 25, 35 and 5, 15, 25.
    assert object_tokens([VIEW], [(14, 4, 26, 16)], 12).tolist() == [1, 2, 5, 6]
    assert object_tokens([VIEW], [(14, 4, 16, 6), (30, 20, 40, 30)], 12).tolist() == [1, 11]


def test_a_small_object_has_the_cell_around_its_centre():
    assert object_tokens([VIEW], [(11, 1, 13, 3)], 12).tolist() == [1]
    assert object_tokens([VIEW], [(50, 50, 51, 51)], 12).tolist() == []


def test_every_view_of_the_first_image_counts():
    thumbnail = View("thumbnail", 0, 12 + np.arange(1).reshape(1, 1), (0, 0, 40, 30))
    other = View("image", 1, 13 + GRID, (0, 0, 40, 30))
    assert object_tokens([VIEW, thumbnail, other], [(0, 0, 40, 30)], 25).tolist() == list(range(13))


@pytest.mark.parametrize("family", CORE_FAMILIES)
def test_the_seven_categories_of_a_question(family):
    a, shown = adapter(family), image(2, 56, 56)
    question = Question(
        request("q", "<image>\nis there a dog in the image ?", shown), "yes", "dog", ((20.0, 20.0, 40.0, 40.0),)
    )
    prompt = a.encode(question.request)
    codes = token_codes(a, prompt, question, FINE)
    found = names(codes)
    is_image = prompt.roles == Role.IMAGE
    visual = [name for name, yes in zip(found, is_image.tolist(), strict=True) if yes]
    place = [name == "visual_object" for name in visual].index(True)
    assert set(visual[:place]) <= {"visual_before"}
    assert {"visual_object", "visual_after"} == set(visual[place:])
    start = int(is_image.nonzero()[0])
    assert found[:start] == [""] * start
    text = found[prompt.prefix_length :]
    named = text.index("text_object")
    assert text[:named] == ["text_early"] * named
    assert text.count("text_object") == 1
    assert int(prompt.ids[prompt.prefix_length + named]) == a.tokenizer.convert_tokens_to_ids("dog")
    assert text[named + 1 :] == ["text_late"] * (len(text) - named - 2) + ["last"]


def test_what_cannot_be_located_has_no_fine_categories():
    a, shown = adapter("llava"), image(2, 56, 56)
    asked = request("q", "<image>\nis there a dog in the image ?", shown)
    prompt, box = a.encode(asked), ((20.0, 20.0, 40.0, 40.0),)
    assert token_codes(a, prompt, Question(asked, "yes", "dog", box), FINE) is not None
    for lost in (Question(asked, "yes", "cat", box), Question(asked, "yes", "", box), Question(asked, "yes", "dog")):
        assert token_codes(a, prompt, lost, FINE) is None
        coarse = token_codes(a, prompt, lost, COARSE)
        start = int((prompt.roles == Role.IMAGE).nonzero()[0])
        expected = [""] * start + ["visual"] * (prompt.prefix_length - start)
        expected += ["text"] * (len(prompt) - prompt.prefix_length - 1) + ["last"]
        assert names(coarse, COARSE) == expected
    text = request("t", "how many are there ?")
    assert token_codes(a, a.encode(text), Question(text, "one"), COARSE) is None


def test_an_answer_is_known_by_its_first_tokens():
    a = adapter("llava")
    yes = a.tokenizer.convert_tokens_to_ids("yes")
    assert answer_tokens(a, "yes") == (yes,)
    assert answer_tokens(a, "unheard-of") == ()
