"""Which text a device may call itself: enforced once, when it is decoded.

Names are printed on terminals, typed on command lines and compared by people. So they hold no
control characters (terminal escapes), nothing that shows as nothing or as another character, and
nothing that turns the direction of the text around it. The ranges are written out, as what Python
calls printable depends on its version, and two devices must agree.
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

from wire.errors import MalformedId

NAME_LETTERS_MAX = 64

_HIDDEN = (
    r"\x00-\x1f\x7f-\x9f"  # C0, DEL, C1
    r"\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"  # what looks like a space and is none
    r"\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # soft hyphen, fillers, marks
    r"\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff"
    r"\ud800-\udfff\U000e0000-\U000e0fff"  # surrogates, tags
)
NAME_PATTERN = rf"^(?!\s)[^{_HIDDEN}]*(?<!\s)\Z"
CAPABILITY_PATTERN = rf"^[a-z]+:[^\s{_HIDDEN}]+\Z"
VISIBLE_ASCII_PATTERN = r"^[!-~]+\Z"

Name = Annotated[str, Meta(min_length=1, max_length=NAME_LETTERS_MAX, pattern=NAME_PATTERN)]
NameOrNothing = Annotated[str, Meta(max_length=NAME_LETTERS_MAX, pattern=NAME_PATTERN)]
Address = Annotated[
    str, Meta(min_length=1, max_length=128, pattern=VISIBLE_ASCII_PATTERN)
]  # a multiaddr
CapabilityKey = Annotated[str, Meta(min_length=3, max_length=160, pattern=CAPABILITY_PATTERN)]

_name = re.compile(NAME_PATTERN)
_hidden = re.compile(f"[{_HIDDEN}]")


def name_from_text(text: str) -> str:
    """Return `text` if a device may be called so. Raises MalformedId."""
    if not 1 <= len(text) <= NAME_LETTERS_MAX or _name.search(text) is None:
        raise MalformedId(
            f"{text[:80]!r} is not a name: 1 to {NAME_LETTERS_MAX} visible characters, "
            "no space at either end"
        )
    return text


def visible(text: str) -> str:
    """Return `text` fit for a terminal: what a name must not hold is written as an escape.

    For text that devices may fill as they like, such as reasons and details.
    """
    return _hidden.sub(lambda match: ascii(match[0])[1:-1], text)
