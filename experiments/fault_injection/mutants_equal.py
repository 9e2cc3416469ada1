"""Changes of the source that change no result, which no test can notice: each with the reason."""

# By module, line before and line after.
EQUAL: dict[tuple[str, str, str], str] = {}
