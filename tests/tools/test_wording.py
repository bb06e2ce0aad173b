"""What smol-llava is taught is true of its scene, in correct English, and in the shares that were asked for."""

import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import smol
from smol.captions import caption, short_captions
from smol.wording import natural_turns

from sinkbench.paths import asset
from sinkbench.scenes.dialogue import training_turns
from sinkbench.scenes.language import NUMBERS
from sinkbench.scenes.questions import CORNERS, DESCRIBE, LETTER_SUFFIX, READ_SIGN, SHORT_SUFFIX, facts, is_there
from sinkbench.scenes.rows import synonym_lines
from sinkbench.scenes.scene import SIZE, sample_scene, scene_rng
from sinkbench.scenes.world import CATEGORIES, COLOURS, KINDS
from sinkbench.scoring.chair import MentionFinder
from sinkbench.scoring.pope import parse

SMOL = Path(smol.__file__).parent
OWN = {is_there(name): name for name in CATEGORIES}
NAMES = {form: c.name for c in CATEGORIES.values() for form in (c.name, c.plural)}
ANY_NAME = "|".join(sorted(NAMES, key=len, reverse=True))
UNITS = "(?:(?:pairs?|pieces?) of )?"
COUNTED = re.compile(rf"\b({'|'.join(NUMBERS[1:])}) {UNITS}({ANY_NAME})(?: sets)?\b", re.I)
COLOURED = re.compile(rf"\b({'|'.join(COLOURS)}) ({ANY_NAME})\b", re.I)
PLACED = re.compile(
    rf"({ANY_NAME})(?: is| can be seen)? (?:in|at) the ({'|'.join(CORNERS)})"
    rf"|(?:in|at)? ?the ({'|'.join(CORNERS)})(?: corner)? (?:there is|we see|holds) [a-z ]*?({ANY_NAME})\b",
    re.I,
)


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene("train", 5, index) for index in range(300)]


@pytest.fixture(scope="module")
def turns(scenes):
    """(scene, canonical question, canonical answer, natural question, natural answer) of every turn but captions."""
    found = []
    for scene in scenes:
        for plain, said in zip(training_turns(scene, rng_of(scene)), natural_turns(scene, rng_of(scene)), strict=True):
            if not plain[0].endswith((DESCRIBE, "describe the image in detail.", "Describe this image.")):
                found.append((scene, *plain, *said))
    return found


@pytest.fixture(scope="module")
def captions(scenes):
    found = []
    for scene in scenes:
        rng = rng_of(scene)
        found += [(scene, caption(scene, rng, absent=scene.mentioned_absent)) for _ in range(3)]
    return found


@pytest.fixture(scope="module")
def finder():
    return MentionFinder("\n".join(synonym_lines()), "simplemma")


def rng_of(scene):
    return scene_rng(scene.split, scene.seed, scene.index, "dialogue")


def named(text):
    return {NAMES[form.lower()] for form in re.findall(rf"\b(?:{ANY_NAME})\b", text, re.I)}


def asked_about(question):
    """The category of a canonical question: the first line, so that options are not looked at."""
    categories = named(question.split("\n")[0])
    assert len(categories) == 1
    return categories.pop()


def corner_of(scene, category):
    (thing,) = (o for o in scene.objects if o.category == category)
    return f"{'top' if thing.y < SIZE / 2 else 'bottom'} {'left' if thing.x < SIZE / 2 else 'right'}"


def colour_of(scene, category):
    (thing,) = (o for o in scene.objects if o.category == category)
    return thing.look


def test_presence_questions_ask_for_the_category_and_their_answers_are_true(turns):
    readings = Counter()
    for scene, plain, _, question, answer in turns:
        name = OWN.get(plain.removesuffix(SHORT_SUFFIX))
        if name is None:
            continue
        assert named(question) == {name}
        expected = "yes" if name in scene.counts else "no"
        assert parse(answer, expected).answer == expected
        assert parse(answer, expected, "opera_pai").answer == expected
        assert named(answer) <= {name}
        readings[expected] += 1
        if expected == "yes" and (found := COUNTED.search(answer)):
            assert NUMBERS.index(found[1].lower()) == scene.counts[name]
    assert readings["yes"] == readings["no"] > 900


def test_counts_come_back_from_every_phrasing(turns):
    phrasings = set()
    for scene, plain, _, question, answer in turns:
        if not plain.startswith("How many") or "\nA. " in plain:
            continue
        name = asked_about(plain)
        assert named(question) == {name}
        found = re.findall(rf"\b({'|'.join(NUMBERS)})\b", answer, re.I)
        assert [NUMBERS.index(number.lower()) for number in found] == [scene.counts[name]]
        assert named(answer) <= {name}
        if found := COUNTED.search(answer):
            one, several = (
                f"one ((pair|piece) of )?{name}",
                rf"\w+ ((pairs|pieces) of {name}|{CATEGORIES[name].plural}|tv sets)",
            )
            assert re.fullmatch(one if scene.counts[name] == 1 else several, found[0], re.I)
        phrasings.add(re.sub(rf"{'|'.join(NUMBERS)}|{UNITS}(?:{ANY_NAME})", "_", answer, flags=re.I))
    assert len(phrasings) >= 10


def test_positions_and_colours_come_back_from_every_phrasing(turns):
    told = Counter()
    for scene, plain, _, question, answer in turns:
        for start, values, truth in (("Where is", CORNERS, corner_of), ("What color", COLOURS, colour_of)):
            if plain.startswith(start) and "\nA. " not in plain:
                name = asked_about(plain)
                assert named(question) == {name}
                assert named(answer) <= {name}
                assert re.findall("|".join(values), answer.lower()) == [truth(scene, name)]
                told[start] += 1
    assert min(told.values()) > 100


def test_places_and_signs_come_back_from_every_phrasing(turns):
    for scene, plain, _, _, answer in turns:
        if plain.startswith(READ_SIGN):
            assert re.findall(rf"\b{scene.sign.text}\b", answer.lower())
        elif plain.startswith("What kind of place") and "\nA. " not in plain:
            found = [kind for kind in KINDS if re.search(rf"\b{kind}\b", answer.lower())]
            assert found == [scene.kind]


def test_choices_name_the_right_option(turns):
    with_text = 0
    for scene, plain, letter, question, answer in turns:
        if "\nA. " not in plain:
            continue
        truth = {fact.question: fact.answer for fact in facts(scene)}[plain.split("\n")[0]]
        options = dict(re.findall(r"^([A-D])\. (.+)$", question, re.M))
        assert options[letter] == truth
        if question.endswith(LETTER_SUFFIX):
            assert answer == letter
        else:
            assert re.fullmatch(
                rf"{letter}|{letter}\. {truth}|The answer is {letter}\.|Option {letter}: {truth}\.", answer
            )
            with_text += truth in answer
    assert with_text > 10


def test_captions_name_what_is_there_and_the_absent_ones_once_for_chair(captions, finder):
    assert any(scene.mentioned_absent for scene, _ in captions)
    for scene, text in captions:
        objects = finder.find(text).objects
        assert sorted(objects) == sorted({*scene.counts, *scene.mentioned_absent}), text
        assert objects[0] in scene.counts


def test_captions_tell_true_counts_colours_and_corners(captions):
    told = Counter()
    for scene, text in captions:
        counted = {NAMES[m[2]]: NUMBERS.index(m[1].lower()) for m in COUNTED.finditer(text)}
        assert counted == {name: n for name, n in scene.counts.items() if n > 1}
        for match in COLOURED.finditer(text):
            assert match[1].lower() == colour_of(scene, match[2])
            told["colour"] += 1
        corners = [(m[1] or m[4], m[2] or m[3]) for m in PLACED.finditer(text)]
        assert len(corners) == sum(text.lower().count(corner) for corner in CORNERS), text
        for name, corner in corners:
            assert corner.lower() == corner_of(scene, NAMES[name.lower()])
            told["corner"] += 1
    assert min(told["colour"], told["corner"]) > 0.25 * len(captions)


def test_captions_have_two_to_four_sentences_in_many_plans(captions):
    plans = Counter()
    for _, text in captions:
        sentences = re.split(r"(?<=\.) ", text)
        assert 2 <= len(sentences) <= 4
        assert all(sentence[0].isupper() or sentence[0] == '"' for sentence in sentences)
        plans[
            tuple(
                "sign" if re.search(r"\bsign\b(?!s)", s) and not named(s) else
                "corner" if any(c in s for c in CORNERS) and len(named(s)) == 1 else
                "place" if not named(s) else
                "objects"
                for s in sentences
            )
        ] += 1  # fmt: skip
    assert len([plan for plan, n in plans.items() if n >= 0.01 * len(captions)]) >= 8
    assert max(plans.values()) < 0.4 * len(captions)


def test_a_short_caption_is_one_true_sentence_about_up_to_six_categories(scenes, finder):
    for scene in scenes:
        ((question, text),) = short_captions(scene, rng_of(scene))
        assert question == ""
        assert text.count(".") == 1
        objects = finder.find(text).objects
        assert len(objects) == min(6, len(scene.counts))
        assert set(objects) <= set(scene.counts)
        assert scene.kind in text.lower()


def test_articles_and_verbs_are_right(turns, captions):
    own = {plain.removesuffix(SHORT_SUFFIX) for _, plain, *_ in turns}
    texts = [text for *_, question, answer in turns for text in (question.removesuffix(SHORT_SUFFIX), answer)]
    for text in (*texts, *(text for _, text in captions)):
        if text in own:
            continue  # the benchmarks' own wording, "Where is the skis" included
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|\b(\w+) \1\b|  | [.,?]|[{}]", text, re.I), text
        assert not re.search(r"\bare (?:also )?(?:an?|one) |\ba (?:skis|scissors|broccoli)\b", text, re.I), text
        several = re.search(rf"\bis (?:also )?(?:{'|'.join(NUMBERS[2:])})\b", text, re.I)
        assert not several or text.startswith("The number of"), text
        assert not re.search(r"\b(?:persons|sheeps|mouses|knifes)\b", text), text


def test_shares_of_styles(turns):
    presence = [turn for turn in turns if turn[1].removesuffix(SHORT_SUFFIX) in OWN]
    asked = Counter(question.removesuffix(SHORT_SUFFIX) in OWN for *_, question, _ in presence)
    assert 0.28 < asked[True] / len(presence) < 0.39
    open_turns = [turn for turn in turns if "\nA. " not in turn[1]]
    short = [turn for turn in open_turns if turn[3].endswith(SHORT_SUFFIX)]
    assert 0.36 < len(short) / len(open_turns) < 0.44
    for *_, plain_answer, _, answer in short:
        assert answer == plain_answer[0].upper() + plain_answer[1:]
    plain = [turn for turn in open_turns if not turn[3].endswith(SHORT_SUFFIX)]
    bare = [turn for turn in plain if not turn[4].endswith(".")]
    signs = [turn for turn in plain if turn[1] == READ_SIGN]
    assert all(turn[3] in OWN for turn in bare if turn not in signs)
    assert 0.4 < len([t for t in bare if t[3] in OWN]) / len([t for t in plain if t[3] in OWN]) < 0.6


def test_questions_and_answers_start_in_many_ways(turns):
    presence = [turn for turn in turns if turn[1].removesuffix(SHORT_SUFFIX) in OWN]
    assert (
        len({re.sub(rf"\ban? |{UNITS}(?:{ANY_NAME})", "", turn[3].removesuffix(SHORT_SUFFIX)) for turn in presence})
        >= 30
    )
    sentences = [turn[4] for turn in presence if turn[4].endswith(".")]
    first = Counter(re.split(r"\W", sentence)[0] for sentence in sentences)
    assert 0.5 < (first["Yes"] + first["No"]) / len(sentences) < 0.85
    for topic in ("How many", "Where is", "What color", "What kind", READ_SIGN):
        said = [turn for turn in turns if turn[1].startswith(topic)]
        kept = sum(turn[1].split("\n")[0] == turn[3].split("\n")[0] for turn in said)
        assert 0.25 < kept / len(said) < 0.42
        assert len({re.sub(f"{UNITS}(?:{ANY_NAME})", "", turn[3].split("\n")[0]) for turn in said}) >= 11


def test_captions_are_asked_for_in_many_ways(scenes):
    asked = Counter()
    for scene in scenes:
        known = {question for question, _ in natural_turns(scene, rng_of(scene))}
        asked.update(known & {DESCRIBE, "Describe this image.", "Tell me about this image.", "What is in the image?"})
    assert 0.2 < asked[DESCRIBE] / len(scenes) < 0.35
    assert len(asked) == 4


def test_the_same_scene_and_seed_give_the_same_text(scenes):
    for scene in scenes[:20]:
        assert natural_turns(scene, Random(3)) == natural_turns(scene, Random(3))
        assert natural_turns(scene, Random(3)) != natural_turns(scene, Random(4))


def test_files_of_plain_text_hold_different_lines():
    prompts = (SMOL / "plain_prompts.txt").read_text(encoding="utf-8").splitlines()
    sentences = (asset("text") / "sentences.txt").read_text(encoding="utf-8").splitlines()
    assert len(prompts) == len({prompt.lower() for prompt in prompts}) == 400
    assert len(sentences) == len(set(sentences)) == 100
    assert all(10 <= len(sentence.split()) <= 25 and sentence.endswith(".") for sentence in sentences)
    assert not [line for line in (*prompts, *sentences) if re.search(r"\b(?:image|picture|photo)s?\b", line, re.I)]
    assert all(line == line.strip() and line.isascii() for line in (*prompts, *sentences))
