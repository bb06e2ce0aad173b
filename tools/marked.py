"""A table between two markers of a document."""


def insert(text: str, begin: str, end: str, table: str) -> str:
    """A document with the table between its two markers, whatever lay there before.

    Raises:
        ValueError: The markers are not there once each, one after the other.
    """
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end) or begin in rest or end in after:
        raise ValueError(f"the table's place is not marked once by {begin} and, below it, {end}")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"
