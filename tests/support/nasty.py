"""Answers that no scorer may stumble over."""

NASTY = (
    "",
    " ",
    "\n\n",
    "\x00",
    ".",
    ",.,.",
    "yes" * 30_000,
    "no " * 40_000,
    "Yes. No. " * 100,
    "YES!!!",
    "n",
    "y",
    "Da ist kein Hund.",
    "是的，图片中有一只狗。",
    "لا، لا يوجد كلب",
    "‮oN‬",
    "👍🏽 yes 👎",
    "{{ yes }} {% raw %}",
    "<image>",
    "</s>USER: yes ASSISTANT: no",
    "\ufeffNo",
    "ｙｅｓ",
    "nan",
    "None",
    "0.5; DROP TABLE samples",
    "dog " * 25_000,
    "\x00dog\x00",
    "🐶🐕‍🦺 a dog 🦮",
    "كلب في الصورة، لا",
    "d\u0301o\u0301g\u0301 and a ｄｏｇ",
    "{{question}} %s %(x)s {0} \\N{DOG} <image> </s>",
    "((((((((((" * 500,
    "a.b.c.d " * 500,
    "\u2028\u2029\x85dog",
    "1 " * 50_000,
    "rating: 9\nRating: 3.5",
    "nan inf -0 1e999",
    "½ ٣ ²",
    "." * 1000,
    ", ' ; ? !",
    "नमस्ते",
    "答案是B。",
    "İ ß ﬁ",
    "1,000,000.5,",
    "'s 's's",
    "(A) [B] {C} \\ A. B. C. D.",
    "1," * 50_000,
)
"""Empty, blank, huge (100 kB), control characters, emoji, other scripts, right to left, templates, markup."""


def check_scheme(scheme, names, judge, shuffle, ranges=None):
    """No crash, scores and metrics in range, and no difference by order.

    Args:
        scheme: A `sinkbench.scoring.metric.Scheme`.
        names: Its metrics.
        judge: From (answer, number) to a `Score` and a cluster; called for every answer with several numbers.
        shuffle: A `random.Random`.
        ranges: Upper bounds of metrics that go beyond 1, by the last part of the name.
    """
    from sinkbench.scoring.metric import evaluate, record

    records = []
    for number, text in enumerate(NASTY * 4):
        judged, cluster = judge(text, number)
        assert 0 <= judged.score <= 1
        records.append(record(f"{number:04}", cluster, judged))
    first = {name: evaluate(scheme, name, records) for name in names}
    for name, value in first.items():
        base = name.rpartition("/")[2]
        upper = len(records) if base == "n_unparsed" else (ranges or {}).get(base, 1)
        assert not value.n or 0 <= value.value <= upper, name
    shuffle.shuffle(records)
    assert {name: evaluate(scheme, name, records).value for name in names if first[name].n} == {
        name: value.value for name, value in first.items() if value.n
    }
