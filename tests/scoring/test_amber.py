"""AMBER's generative scores by hand."""

import random
import sys
from types import SimpleNamespace

import pytest

from sinkbench.errors import UsageError
from sinkbench.scoring import amber, similar
from sinkbench.scoring.metric import evaluate, record

WORDS = amber.read_words(
    amber.join_words(
        {"grass": ["ground", "lawn"], "dog": ["puppy"], "cat": [], "man": ["person"], "sun": [], "ground": []},
        ["light", " ", "orange"],
    )
)
TRUTH = ["grass", "ground", "dog"]
HALLU = ["cat", "man"]


def near(first, second):
    """Invented neighbours."""
    return first == second or {first, second} in ({"sun", "dog"}, {"sun", "man"})


def counts(nouns, similarity=None, truth=TRUTH, hallu=HALLU):
    return amber.score(nouns, truth, hallu, WORDS, similarity).counts


def test_the_vocabulary_is_all_of_the_lists():
    assert WORDS.vocabulary == {"grass", "ground", "lawn", "dog", "puppy", "cat", "man", "person", "sun"}
    assert WORDS.safe == {"light", "orange"}


def test_by_hand():
    """Of four judged nouns two are made up, one of them foreseen; two of three true words are covered."""
    got = amber.score(["lawn", "puppy", "person", "sun", "spoon"], TRUTH, HALLU, WORDS, None)
    assert got.parsed == {"mentioned": ["lawn", "puppy", "person", "sun"], "hallucinated": ["person", "sun"]}
    assert got.score == 0.0
    assert got.counts == {
        "responses": 1,
        "hallucinating": 1,
        "hallucinated": 2,
        "nouns": 4,
        "covered": 2,
        "truth": 3,
        "foreseen": 1,
        "hallu": 2,
        "unparsed": 0,
    }


def test_a_related_word_counts_for_what_it_stands_for_even_if_it_is_true_itself():
    assert counts(["ground"])["covered"] == 1
    assert counts(["ground", "grass"])["covered"] == 1
    assert counts(["ground", "grass", "dog"])["covered"] == 2


def test_safe_words_are_never_wrong_and_repeats_count():
    words = amber.Words(WORDS.related, WORDS.safe, WORDS.vocabulary | {"light"})
    got = amber.score(["light", "cat", "cat"], TRUTH, HALLU, words, None).counts
    assert (got["nouns"], got["hallucinated"], got["foreseen"]) == (3, 2, 1)


def test_near_words_are_right_and_foreseen_alike():
    """The released scorer marks what is foreseen before it finds that a near word is true."""
    assert counts(["sun"])["hallucinated"] == 1
    got = counts(["sun"], near)
    assert (got["hallucinated"], got["covered"], got["foreseen"], got["nouns"]) == (0, 1, 1, 1)
    assert counts(["sun"], near, truth=["grass"])["hallucinated"] == 1


def evaluated(responses):
    records = [record(f"{i}", f"{i}", amber.score(nouns, *rest, WORDS, None)) for i, (nouns, *rest) in responses]
    return {name: evaluate(amber.SCHEME, name, records) for name in amber.NAMES}


def test_scores_over_responses():
    responses = [(["dog", "cat"], TRUTH, HALLU), (["man", "lawn"], ["grass", "man"], ["cat"]), ([], ["dog"], ["sun"])]
    got = evaluated(enumerate(responses))
    expected = {"chair": 1 / 4, "cover": 3 / 6, "hal": 1 / 3, "cog": 1 / 4, "n_unparsed": 1}
    assert {name: got[name].value for name in amber.NAMES} == pytest.approx(expected)
    shuffled = list(enumerate(responses))
    random.Random(0).shuffle(shuffled)
    assert evaluated(shuffled) == got


def test_nothing_said_at_all_is_zero_and_flagged():
    got = evaluated(enumerate([([], TRUTH, HALLU)]))
    assert (got["chair"].value, got["chair"].undefined) == (0.0, True)
    assert (got["hal"].value, got["cover"].value, got["n_unparsed"].value) == (0, 0, 1)


def test_values_stay_in_range():
    draw = random.Random(1)
    vocabulary = [*sorted(WORDS.vocabulary), "spoon"]
    rows = [(draw.choices(vocabulary, k=6), draw.sample(vocabulary, 3), draw.sample(vocabulary, 2)) for _ in range(99)]
    got = evaluated(enumerate(rows))
    assert all(0 <= got[name].value <= 1 for name in ("chair", "cover", "hal", "cog"))


def by_flags(nouns, truth, hallu, is_near):
    """The released procedure in its own terms: one flag a word, addressed through two parallel lists.

    Returns:
        Made-up nouns, covered true words, foreseen words.
    """

    def parallel(words):
        related = [(name, index) for index, word in enumerate(words) for name in WORDS.related.get(word, ())]
        return [name for name, _ in related] + list(words), [index for _, index in related], [0] * len(words)

    def mark(lists, at):
        _, owners, flags = lists
        flags[owners[at] if at < len(owners) else at - len(owners)] = 1

    shown, foreseen, made_up = parallel(truth), parallel(hallu), 0
    for noun in nouns:
        if noun not in WORDS.vocabulary or noun in WORDS.safe:
            continue
        if noun in shown[0]:
            mark(shown, shown[0].index(noun))
            continue
        if noun in foreseen[0]:
            mark(foreseen, foreseen[0].index(noun))
        close = [[at for at, name in enumerate(lists[0]) if is_near(noun, name)] for lists in (foreseen, shown)]
        if close[0]:
            mark(foreseen, close[0][0])
        if close[1]:
            mark(shown, close[1][0])
        else:
            made_up += 1
    return made_up, sum(shown[2]), sum(foreseen[2])


@pytest.mark.parametrize("similarity", [None, near])
def test_it_is_the_released_procedure(similarity):
    draw = random.Random(2)
    vocabulary = [*sorted(WORDS.vocabulary), "spoon", "light"]
    for _ in range(300):
        nouns, truth, hallu = (draw.choices(vocabulary, k=k) for k in (5, 4, 3))
        got = counts(nouns, similarity, truth, hallu)
        expected = by_flags(nouns, truth, hallu, similarity or (lambda first, second: False))
        assert (got["hallucinated"], got["covered"], got["foreseen"]) == expected


def test_unknown_metrics_are_refused():
    with pytest.raises(ValueError, match="chair_i"):
        amber.metric("chair_i")


@pytest.fixture
def fresh_vectors():
    for function in (similar._vectors, similar._vector, similar.spacy_similar):
        function.cache_clear()
    yield
    for function in (similar._vectors, similar._vector, similar.spacy_similar):
        function.cache_clear()


def test_similarity_needs_spacy_and_says_so(monkeypatch, fresh_vectors):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UsageError, match="en_core_web_lg") as refused:
        similar.get_similarity("spacy")
    assert "pip install spacy" in refused.value.hint
    assert "similarity=lists" in refused.value.hint
    assert similar.get_similarity("lists") is None
    with pytest.raises(UsageError, match="glove"):
        similar.get_similarity("glove")


def test_similarity_is_above_the_threshold_of_ambers_model(monkeypatch, fresh_vectors):
    class Word(str):
        def similarity(self, other):
            return {"puppy": 0.81, "wolf": 0.8}.get(other, 0.0)

    loaded = []
    monkeypatch.setitem(
        sys.modules, "spacy", SimpleNamespace(load=lambda name: loaded.append(name) or (lambda word: Word(word)))
    )
    is_near = similar.get_similarity("spacy")
    assert is_near("dog", "puppy")
    assert not is_near("dog", "wolf")
    assert loaded == ["en_core_web_lg"]
