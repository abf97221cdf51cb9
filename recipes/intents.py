"""Short requests to an assistant (clinc150): wordings of one intent, and of intents near by.

Quora's questions are long and about the world; those a service caches are short and about itself.
Half of the intents train, the other half stays for measuring. Two requests with one intent ask the
same only where an intent has no slots ("report a lost card", not "translate X"), so positives come
from those that were read and found to be one question each, without rare words, which are mostly
fillers of slots after all; and their labels say that some differ. Negatives come from all.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recipes.network import Base
from recipes.pairs import Pair

Requests = dict[str, list[str]]
_POSITIVES, _NEGATIVES = 4_000, 8_000
_PROBABLY = 0.85
_COMMON = 5
_NEIGHBOURS = 8
_NEAR = 0.4
_ONE_QUESTION = """
account_blocked application_status are_you_a_bot cancel card_declined credit_limit_change
credit_score damaged_card direct_deposit do_you_have_pets expiration_date flip_coin freeze_account
gas_type how_old_are_you improve_credit_score insurance insurance_change jump_start
last_maintenance lost_luggage meaning_of_life min_payment new_card next_holiday next_song
oil_change_how oil_change_when order_checks order_status payday pin_change pto_balance
pto_request_status pto_used redeem_rewards repeat replacement_card_duration report_fraud
report_lost_card reset_settings rollover_401k shopping_list tell_joke tire_change todo_list
user_name w2 what_are_your_hobbies what_can_i_ask_you what_is_your_name what_song
where_are_you_from who_made_you
"""
_PARTICULAR = """
visa mastercard chase amex american express discover capital one wells fargo america bank marriot
delta starbucks target walmart applebee's yesterday today tomorrow tonight week month year weekend
january march april may june july august october november december monday tuesday wednesday
thursday friday saturday sunday city highway mom dad wife husband first last dog cat
"""
ONE_QUESTION = frozenset(_ONE_QUESTION.split())
PARTICULAR = frozenset(_PARTICULAR.split())
"""Words that tell one wording of an intent from another though both are frequent."""


def trained_intents(data: Path) -> frozenset[str]:
    """Every second intent in the order of their names."""
    domains = json.loads((data / "clinc150/domains.json").read_text(encoding="utf-8"))
    return frozenset(sorted(intent for domain in domains.values() for intent in domain)[::2])


def intent_pairs(data: Path, base: Base, rng: random.Random) -> list[Pair]:
    """Pairs of training requests of the trained intents, of the kinds "intent" and "intents"."""
    requests = _requests(data, trained_intents(data))
    return [*_positives(requests, rng), *_negatives(requests, base, rng)]


def _requests(data: Path, intents: frozenset[str]) -> Requests:
    parts = json.loads((data / "clinc150/data_full.json").read_text(encoding="utf-8"))
    found: Requests = {intent: [] for intent in sorted(intents)}
    for text, intent in parts["train"]:
        if intent in found:
            found[intent].append(text)
    return found


def _positives(requests: Requests, rng: random.Random) -> list[Pair]:
    known = Counter(word for texts in requests.values() for text in texts for word in _words(text))
    plain = {
        intent: [text for text in texts if _is_plain(text, known)]
        for intent, texts in requests.items()
        if intent in ONE_QUESTION
    }
    each = _POSITIVES // max(1, len(plain))
    return [
        Pair(first, second, _PROBABLY, "intent")
        for texts in plain.values()
        if len(texts) > 1
        for _ in range(min(each, len(texts) * (len(texts) - 1) // 4))
        for first, second in [rng.sample(texts, 2)]
    ]


def _negatives(requests: Requests, base: Base, rng: random.Random) -> list[Pair]:
    """A request and one of those nearest to it among the other intents."""
    texts = [text for group in requests.values() for text in group]
    intents = np.array([intent for intent, group in requests.items() for _ in group])
    vectors = base.vectors(texts)
    pairs = []
    for i in rng.sample(range(len(texts)), min(_NEGATIVES, len(texts))):
        near = np.where(intents == intents[i], -1, vectors @ vectors[i])
        j = rng.choice(np.argsort(-near)[:_NEIGHBOURS].tolist())
        if near[j] > _NEAR:
            pairs.append(Pair(texts[i], texts[j], 0.0, "intents"))
    return pairs


def _words(text: str) -> Sequence[str]:
    return re.findall(r"[a-z']+|\d+", text.lower())


def _is_plain(text: str, known: Counter[str]) -> bool:
    words = _words(text)
    return len(words) > 1 and all(
        known[word] >= _COMMON and word not in PARTICULAR and not word.isdigit() for word in words
    )
