"""A service's own wordings of the same thing: they are one and the same to the cache."""

import hashlib
import json
import re
from collections.abc import Sequence

_BETWEEN = re.compile(r"[\s-]+")


class Synonyms:
    """Rewrites every wording of a group as the group's first.

    Whole words, in any case; spaces and hyphens are alike. Of wordings that overlap in a text the
    longest counts, and what was rewritten is not looked at again.

    Args:
        groups: each the wordings of one thing, no wording in two of them.
    """

    def __init__(self, groups: Sequence[Sequence[str]] = ()) -> None:
        self._first = {plain(wording): group[0] for group in groups for wording in group}
        longest_first = sorted(self._first, key=lambda wording: (-len(wording), wording))
        pieces = (r"[\s-]+".join(map(re.escape, wording.split())) for wording in longest_first)
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(pieces)})(?!\w)", re.IGNORECASE)
        told = json.dumps(sorted(self._first.items()))
        self.digest = hashlib.blake2b(told.encode(), digest_size=8).hexdigest() if groups else ""

    def applied(self, text: str) -> str:
        """The text in the groups' first wordings."""
        if not self._first:
            return text
        return self._pattern.sub(lambda found: self._first.get(plain(found[0]), found[0]), text)


def plain(wording: str) -> str:
    """What is equal of two writings of the same wording."""
    return _BETWEEN.sub(" ", wording.casefold()).strip()
