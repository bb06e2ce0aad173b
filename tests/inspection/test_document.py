"""Documents: what they hold is what they are read back as, and numbers stand in lines."""

import json

from sinkbench.inspection.document import dumps


def test_lists_of_numbers_take_a_line_and_nothing_changes():
    document = {"a": [1.5, None, 3], "b": [[1, 2], [3]], "c": [{"token": " [the, ]"}], "d": [], "e": ["x", "y"]}
    text = dumps(document)
    assert json.loads(text) == document
    assert '"a": [ 1.5, null, 3 ]' in text
    assert '" [the, ]"' in text
