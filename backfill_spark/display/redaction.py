"""What looks like a key, in messages and in settings: the one list of patterns. Standard library only."""

from __future__ import annotations

import re

KEY_NAMES = (
    "(?:api|access|private|account|signing)[._-]?key|authorization|credential|passw(?:or)?d|passphrase|pwd|secret|token"
)
"""Names of settings and variables that hold a key: a pattern for Python and for Java."""
_REDACTED = "[redacted]"
_KEYS = re.compile(
    rf"""
    (?P<kept>
        \b(?:bearer|basic)\s+(?=[A-Za-z0-9._~+/=-]{{6}})
      | (?:{KEY_NAMES})[\w-]{{0,20}}["']?\s{{0,3}}(?:[:=]|=>|\bis\b)\s{{0,3}}["']?(?:(?:bearer|basic)\s+)?
    )[^\s"',;&)\]}}]+
  | (?<=://)[^\s/@:]{{0,200}}:[^\s/@]{{1,200}}(?=@)
  | \b(?:sk|pk|rk)[-_][A-Za-z0-9_*-]{{6,}}
  | \b(?:gh[pousr]_|github_pat_|glpat-|hf_|xox[abeoprs]-|dapi|AIza|ya29\.|npm_|pypi-|lsv2_)[A-Za-z0-9._-]{{8,}}
  | \b(?:AKIA|ASIA)[A-Z0-9]{{12,}}
  | \beyJ[A-Za-z0-9_-]{{5,}}(?:\.[A-Za-z0-9_-]*){{0,2}}
  | \b[0-9a-f]{{32,}}\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_LONG_RUN = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}")


def redacted(text: str) -> str:
    """Return `text` without what looks like a key; the name before it stays."""
    text = _KEYS.sub(lambda match: (match["kept"] or "") + _REDACTED, text)
    return _LONG_RUN.sub(_redacted_if_mixed, text)


def _redacted_if_mixed(match: re.Match[str]) -> str:
    run = match[0]
    is_mixed = any(c.isdigit() for c in run) and any(c.islower() for c in run) and any(c.isupper() for c in run)
    return _REDACTED if is_mixed else run
