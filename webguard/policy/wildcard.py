"""Wildcards: `*` stands for any text, also none, and `?` for one character; no more is special.

The text that is matched is an attacker's, so a match takes time in proportion
to its length: each `*` is tried at the first place where what follows it fits,
and never again (an atomic group). That loses no match, because whatever a later
place could match, the first one can as well.
"""

import re

WITHIN = "\0"
"""In a pattern: one character that is not a slash. No text of ours holds it."""


def expression(pattern: str, *, text: str = ".", below: bool = False) -> str:
    """Return `pattern` as a regular expression for `re.fullmatch` with `re.DOTALL`.

    `text` is what each character behind a `*` must be. With `below` the pattern
    may also follow a dot: it is a domain's, and what is below it matches too.
    """
    first, *others = pattern.split("*")
    start = _literal(first)
    if not others:
        return rf"(?:[^/]*\.)?{start}" if below else start
    *middle, last = others
    parts = [rf"(?>(?:[^/]*?\.)??{start})" if below else start]
    parts += [f"(?>{text}*?{_literal(each)})" for each in middle if each]
    parts.append(f"{text}*{_literal(last)}")
    return "".join(parts)


def compiled(pattern: str) -> re.Pattern[str]:
    """Return `pattern` ready for `fullmatch`."""
    return re.compile(expression(pattern), re.DOTALL)


def is_wild(pattern: str) -> bool:
    """Return whether `pattern` matches more than itself."""
    return "*" in pattern or "?" in pattern


def _literal(segment: str) -> str:
    special = {"?": ".", WITHIN: "[^/]"}
    return "".join(special.get(each) or re.escape(each) for each in segment)
