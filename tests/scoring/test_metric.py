"""The algebra of additive counts."""

import numpy as np
import pytest

from sinkbench.scoring.metric import (
    Metric,
    Part,
    Scheme,
    Score,
    cluster_sums,
    evaluate,
    quotient,
    record,
    record_units,
    sorted_units,
    total,
)

SHARE = Metric("share", (Part(("hit", "n"), quotient, "n"),), "mean")
MACRO = Metric("macro", tuple(Part((f"{p}.hit", f"{p}.all"), quotient, f"{p}.n") for p in "ab"))
COUNT = Metric("count", (Part(("x",), total, "n"), Part(("y",), total, "n")), "count")


def test_columns_put_each_parts_support_first():
    assert MACRO.columns == ("a.n", "a.hit", "a.all", "b.n", "b.hit", "b.all")


def test_a_macro_average_skips_parts_without_support_and_flags_zero_over_zero():
    sums = np.array([[4, 1, 2, 4, 3, 3], [4, 1, 2, 0, 0, 0], [4, 1, 2, 3, 0, 0], [0.0] * 6])
    value, undefined = MACRO.value(sums)
    np.testing.assert_allclose(value, [0.75, 0.5, 0.25, np.nan])
    assert undefined.tolist() == [False, False, True, False]
    assert MACRO.support(sums).tolist() == [8, 4, 7, 0]


def test_a_count_adds_its_parts():
    assert COUNT.value(np.array([5.0, 2.0, 5.0, 3.0]))[0] == 5.0


def test_cluster_sums_are_sorted_by_name_and_fill_in_zeros():
    score = Score(None, 1.0, {"hit": 1.0, "n": 1.0})
    other = Score(None, 0.0, {"n": 1.0})
    units = record_units([record("1", "z", score), record("2", "a", other), record("3", "z", other)])
    assert cluster_sums(units, SHARE.columns).tolist() == [[1, 0, 1], [2, 1, 2]]
    assert cluster_sums([], SHARE.columns).shape == (0, 3)


def test_sums_of_fractions_do_not_depend_on_the_order_of_records():
    generator = np.random.default_rng(0)
    records = [
        record(f"{i:04}", str(i % 7), Score(None, 0.0, {"hit": float(x), "n": 1.0}))
        for i, x in enumerate(generator.uniform(size=500))
    ]
    scheme = Scheme(lambda name: SHARE)
    first = evaluate(scheme, "share", records)
    for _ in range(5):
        generator.shuffle(records)
        assert evaluate(scheme, "share", records) == first
        assert sorted_units(scheme, records)[0].counts == min(records, key=lambda entry: entry["id"])["counts"]


def test_no_records_give_no_value():
    value, n, undefined = evaluate(Scheme(lambda name: SHARE), "share", [])
    assert np.isnan(value)
    assert (n, undefined) == (0, False)


def test_resampled_totals_go_through_the_same_function():
    sums = np.random.default_rng(1).integers(0, 5, size=(9, 6)).astype(float)
    value, _ = MACRO.value(sums)
    assert value.shape == (9,)
    for row, one in zip(sums, value, strict=True):
        np.testing.assert_equal(MACRO.value(row)[0], one)


def test_values_of_means_lie_between_the_extremes():
    sums = np.array([[3.0, 2.0, 3.0]])
    assert SHARE.value(sums)[0][0] == pytest.approx(2 / 3)
