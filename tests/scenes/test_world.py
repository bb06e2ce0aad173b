from collections import Counter

from sinkbench.scenes.atlas import load_sprites, sprite_index
from sinkbench.scenes.world import CATEGORIES, COLOURS, KINDS, PARTNERS, SIGN_WORDS, partners


def test_there_are_68_categories_with_their_coco_ids():
    assert len(CATEGORIES) == 68
    ids = {name: category.id for name, category in CATEGORIES.items()}
    assert (ids["person"], ids["stop sign"], ids["wine glass"], ids["toothbrush"]) == (1, 13, 46, 90)
    assert len(set(ids.values())) == 68
    assert list(ids.values()) == sorted(ids.values())


def test_every_synonym_names_one_category():
    counts = Counter(word for c in CATEGORIES.values() for word in {c.name, *c.synonyms})
    assert [word for word, n in counts.items() if n > 1] == []


def test_no_sign_word_reads_like_an_object_or_a_colour():
    known = {word for c in CATEGORIES.values() for word in (c.name, c.plural, *c.synonyms)} | set(COLOURS)
    assert known.isdisjoint(SIGN_WORDS)
    assert len(set(SIGN_WORDS)) == len(SIGN_WORDS) >= 30


def test_kinds_and_partners_name_known_categories_and_leave_none_out():
    used = {name for kind in KINDS.values() for name in kind.weights}
    assert used == set(CATEGORIES)
    assert frozenset().union(*PARTNERS) <= set(CATEGORIES)
    assert partners("fork") == {"knife", "spoon", "bowl"}


def test_the_atlas_holds_every_sprite_and_none_is_blank():
    wanted = {f"{c.name}/{look}" for c in CATEGORIES.values() for look in c.looks}
    wanted |= {f"scenery/{emoji}" for kind in KINDS.values() for emoji in kind.scenery}
    wanted |= {f"letter/{letter}" for word in SIGN_WORDS for letter in word.upper()} | {"panel"}
    assert set(sprite_index()) == wanted
    sprites = load_sprites()
    assert sprites.shape == (len(wanted), 4, 64, 64)
    assert float(sprites[:, 3].mean((1, 2)).min()) > 0.05
