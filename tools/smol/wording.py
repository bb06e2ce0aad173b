"""Scenes in natural wording: the conversations of `training_turns`, said as people would say them."""

import random
from dataclasses import dataclass

from sinkbench.scenes.dialogue import Turn, training_turns
from sinkbench.scenes.language import with_article
from sinkbench.scenes.questions import DESCRIBE, DESCRIBE_ALTERNATIVES, LETTER_SUFFIX, READ_SIGN, SHORT_SUFFIX
from sinkbench.scenes.scene import Scene
from smol.captions import at_place, caption
from smol.nouns import PRESENCE, SUBJECTS, capitalised, forms

_OWN_SHARE = 1 / 3
"""Share of questions that keep the benchmarks' own wording."""
_BARE_SHARE = 0.5
"""Share of POPE's own questions without suffix that are answered by one word, and of letters given without a text."""


@dataclass(frozen=True)
class _Wording:
    """Templates of one topic; their fields are those of `nouns.forms`, `answer`, `place` and `at_place`."""

    questions: tuple[str, ...]
    answers: tuple[str, ...]


_ASK_PRESENCE = (
    "Is there {a} in this image?",
    "Is there {a} in the picture?",
    "Is there {a} in this photo?",
    "Is there {a} here?",
    "Is there {a} anywhere in the scene?",
    "Is {a} in the image?",
    "Is {a} visible in the image?",
    "Is {a} shown in this picture?",
    "Is {a} part of the scene?",
    "Are there any {plural} in the image?",
    "Are any {plural} visible here?",
    "Are there {plural} in this picture?",
    "Do you see {a}?",
    "Do you see {a} in the image?",
    "Do you see any {plural} in this photo?",
    "Can you see {a} in the picture?",
    "Can you spot {a} here?",
    "Can you find {a} in this image?",
    "Can {a} be seen in the image?",
    "Could you tell me whether there is {a} in the image?",
    "Does the image contain {a}?",
    "Does the image show {a}?",
    "Does this picture include {a}?",
    "Does this scene have {a} in it?",
    "Does {a} appear in the image?",
    "I am looking for {a}. Is there one in the image?",
    "Look closely: is there {a} in the picture?",
    "Please check whether {a} is in the image.",
    "Tell me if there is {a} in this image.",
    "Have you noticed {a} in the photo?",
    "Would you say that there is {a} in the scene?",
    "What about {a}, is there one in the image?",
)
_YES = (
    "Yes, there {be} {some} in the image.",
    "Yes, there {be} {some}.",
    "Yes, I can see {some}.",
    "Yes, {some} {be} visible.",
    "Yes, the image shows {some}.",
    "Yes, {some} can be seen in the picture.",
    "Yes, the scene includes {some}.",
    "There {be} {some} in the image.",
    "I can see {some} in the picture.",
    "The image contains {some}.",
    "{some} can be seen here.",
)
# POPE's parser looks for the words "no" and "not": "cannot" and "none" would read as yes.
_NO = (
    "No, there is no {noun} in the image.",
    "No, there is no {noun}.",
    "No, I do not see {a}.",
    "No, {a} is not visible.",
    "No, the image does not show {a}.",
    "No, there are no {plural} in the picture.",
    "No, the scene does not include {a}.",
    "There is no {noun} in the image.",
    "I do not see {a} in the picture.",
    "The image does not contain {a}.",
    "There are no {plural} here.",
)
_TOPICS = {
    "counting": _Wording(
        (
            "How many {plural} are in the image?",
            "How many {plural} are there?",
            "How many {plural} can you see?",
            "How many {plural} can you count in this picture?",
            "How many {plural} does the image show?",
            "How many {plural} are visible in the photo?",
            "What is the number of {plural} in the image?",
            "Count the {plural} in the image.",
            "Please count the {plural} in this picture.",
            "Tell me how many {plural} there are in the scene.",
            "Can you tell me how many {plural} are shown?",
            "How many {plural} appear here?",
        ),
        (
            "There {be} {counted}.",
            "There {be} {counted} in the image.",
            "I can count {counted}.",
            "I see {counted} in the picture.",
            "The image shows {counted}.",
            "{counted} {be} visible.",
            "{counted} can be seen in the image.",
            "The number of {plural} is {answer}.",
            "The scene contains {counted}.",
            "In this image there {be} {counted}.",
        ),
    ),
    "position": _Wording(
        (
            "Where is {the}?",
            "Where is {the} in this picture?",
            "Where in the image is {the}?",
            "Where can {the} be found in the image?",
            "Where do you see {the}?",
            "In which corner of the image is {the}?",
            "In which part of the picture is {the}?",
            "Which corner is {the} in?",
            "Tell me where {the} is in the image.",
            "What is the position of {the} in the image?",
            "Can you locate {the} in the photo?",
            "Whereabouts in the scene is {the}?",
        ),
        (
            "{the} is in the {answer} corner of the image.",
            "{the} is in the {answer}.",
            "It is in the {answer} corner.",
            "It is in the {answer} of the image.",
            "You can find {the} in the {answer} part of the image.",
            "In the {answer} corner.",
            "In the {answer} of the picture.",
            "{the} appears at the {answer}.",
            "I see it at the {answer} of the image.",
            "The position of {the} is {answer}.",
        ),
    ),
    "attribute": _Wording(
        (
            "What color is {the} in the image?",
            "What color does {the} have?",
            "What is the color of {the}?",
            "What is the color of {the} in this picture?",
            "Which color is {the}?",
            "Which color does {the} have in the image?",
            "Tell me the color of {the}.",
            "Can you tell what color {the} is?",
            "In what color is {the} shown?",
            "Please name the color of {the}.",
            "What color do you see on {the}?",
        ),
        (
            "{the} is {answer}.",
            "{the} in the image is {answer}.",
            "It is {answer}.",
            "It has a {answer} color.",
            "The color of {the} is {answer}.",
            "This is a {answer} {noun}.",
            "I see a {answer} {noun}.",
            "There is a {answer} {noun} in the picture.",
            "{answer} is the color of {the}.",
            "Its color is {answer}.",
        ),
    ),
    "scene": _Wording(
        (
            "What kind of place is shown in the image?",
            "What kind of scene is this?",
            "What place does the image show?",
            "What type of place is this?",
            "Where was this picture taken?",
            "Where does this scene take place?",
            "What is the setting of this image?",
            "Which kind of place do you see?",
            "Can you tell what kind of place this is?",
            "Tell me what place is shown here.",
            "How would you describe the location?",
            "In what surroundings was the photo taken?",
        ),
        (
            "This is {place}.",
            "It is {place}.",
            "The image shows {place}.",
            "It looks like {place}.",
            "We are looking at {place}.",
            "The scene is set {at_place}.",
            "The picture was taken {at_place}.",
            "The place is {place}.",
            "I see {place}.",
            "{place} is shown here.",
        ),
    ),
    "sign": _Wording(
        (
            "What does the sign say?",
            "What does the sign in the image say?",
            "What word is on the sign?",
            "What is the word on the sign?",
            "Which word can you read on the sign?",
            "Can you read the sign?",
            "Please read the sign in the picture.",
            "Read the text on the sign.",
            "What text is written on the sign?",
            "Tell me what the sign says.",
            "What can be read on the sign?",
            "There is a sign in the image. What does it say?",
        ),
        (
            "The sign says {answer}.",
            'The sign says "{answer}".',
            'It says "{answer}".',
            "It reads {answer}.",
            "The word on the sign is {answer}.",
            'The word "{answer}" is written on the sign.',
            'I can read "{answer}" on the sign.',
            "The text is {answer}.",
            '"{answer}" is what the sign says.',
            'The sign in the image reads "{answer}".',
        ),
    ),
}
_ASK_CAPTION = (
    "Describe the image.",
    "Describe this picture in a few sentences.",
    "Please describe what you see.",
    "What do you see in this image?",
    "What is shown in the picture?",
    "What is in the image?",
    "Can you describe the scene?",
    "Could you tell me what this photo shows?",
    "Give a detailed description of the image.",
    "Write a description of this picture.",
    "Tell me about this image.",
    "What can be seen in the photo?",
    "Explain what the image shows.",
    "Please write a caption for this image.",
)
_CAPTION_REQUESTS = (DESCRIBE,) * 8 + DESCRIBE_ALTERNATIVES * 3 + _ASK_CAPTION
_LETTER_WITH_TEXT = ("{letter}. {text}", "The answer is {letter}.", "Option {letter}: {text}.")


def natural_turns(scene: Scene, rng: random.Random) -> list[Turn]:
    """Make one conversation about a scene: the topics, shares and order of `training_turns` in natural English.

    With LLaVA's short-answer suffix an answer is one word or phrase, without it a sentence; POPE's own question without
    suffix is also answered by one word. Captions name the scene's `mentioned_absent` beside what is there; every other
    answer is true.

    Args:
        scene: What the conversation is about.
        rng: Source of randomness.

    Returns:
        Questions and answers.
    """
    return [_reworded(scene, question, answer, rng) for question, answer in training_turns(scene, rng)]


def _reworded(scene: Scene, question: str, answer: str, rng: random.Random) -> Turn:
    """Say one turn of `training_turns` in other words."""
    if question == DESCRIBE or question in DESCRIBE_ALTERNATIVES:
        return rng.choice(_CAPTION_REQUESTS), caption(scene, rng, absent=scene.mentioned_absent)
    own, newline, suffix = question.partition("\n")
    if suffix and newline + suffix != SHORT_SUFFIX:
        return _ask(scene, own, rng) + newline + suffix, _letter(suffix, answer, rng)
    asked = _ask(scene, own, rng)
    if suffix or (asked in PRESENCE and rng.random() < _BARE_SHARE):
        return asked + newline + suffix, capitalised(answer)
    return asked, capitalised(rng.choice(_answers(own, answer)).format(**_fields(scene, own, answer)))


def _ask(scene: Scene, own: str, rng: random.Random) -> str:
    """The question in its own or in other words."""
    if rng.random() < _OWN_SHARE:
        return own
    templates = _ASK_PRESENCE if own in PRESENCE else _TOPICS[_topic(own)].questions
    return rng.choice(templates).format(**_fields(scene, own, ""))


def _answers(own: str, answer: str) -> tuple[str, ...]:
    if own in PRESENCE:
        return _YES if answer == "yes" else _NO
    return _TOPICS[_topic(own)].answers


def _topic(own: str) -> str:
    if own == READ_SIGN:
        return "sign"
    if own not in SUBJECTS:
        return "scene"
    return {"How": "counting", "Where": "position", "What": "attribute"}[own.split(" ", 1)[0]]


def _fields(scene: Scene, own: str, answer: str) -> dict[str, str]:
    """What the templates of a question and its answers are filled with."""
    category = PRESENCE.get(own) or SUBJECTS.get(own)
    if category is not None:
        return forms(category, scene.counts.get(category, 0)) | {"answer": answer}
    # A sign can name a kind of place too, so the answer does not tell which of the two was asked for.
    return {"answer": answer, "place": with_article(scene.kind), "at_place": at_place(scene.kind)}


def _letter(suffix: str, letter: str, rng: random.Random) -> str:
    """The answer to a multiple-choice question whose lines after the first are `suffix`."""
    if suffix.endswith(LETTER_SUFFIX) or rng.random() < _BARE_SHARE:
        return letter
    options = dict(line.split(". ", 1) for line in suffix.split("\n"))
    return rng.choice(_LETTER_WITH_TEXT).format(letter=letter, text=options[letter])
