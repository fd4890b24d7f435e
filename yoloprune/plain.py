"""Text from outside, as it may be shown: names of files and classes are not ours."""

from __future__ import annotations

import re

# What moves the cursor, ends a line or turns the reading direction of what stands around it:
# control characters, line and paragraph separators, bidirectional embeddings and isolates, the
# byte order mark, and the lone surrogates that stand for bytes of a file name that is no UTF-8.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def plain(text: str, *, keep: str = "") -> str:
    r"""Text in one line that does nothing to a terminal or a page but stand there.

    Args:
        text: anything.
        keep: characters to leave as they are, such as a line end that is meant.

    Returns:
        The text, with control characters as ``\xNN`` or ``\uNNNN``, a byte of a file name that
        is no UTF-8 as ``\xNN``. It can be encoded as UTF-8.
    """

    def escaped(match: re.Match[str]) -> str:
        character = match[0]
        if character in keep:
            return character
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:  # how os.fsdecode keeps a byte
            code -= 0xDC00
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return _UNSHOWN.sub(escaped, text)
