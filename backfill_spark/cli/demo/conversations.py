"""Questions and answers of made-up conversations, with the faults that real assistants have."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from backfill_spark.cli.demo import texts
from backfill_spark.cli.demo.topics import Topic


@dataclass(frozen=True, slots=True)
class Turn:
    """One question of a conversation and how the assistant came to its answer."""

    topic: Topic
    words: dict[str, Any]
    """What stands in the places of the sentences: names, orders, amounts."""
    question: str
    answer: str | None
    tools: int
    """Calls of tools."""
    failed: bool


def new_words(rng: random.Random, moment: datetime) -> dict[str, Any]:
    first, last = rng.choice(texts.FIRST_NAMES), rng.choice(texts.LAST_NAMES)
    product, product2 = rng.sample(texts.PRODUCTS, 2)
    day = moment + timedelta(days=rng.randrange(1, 9))
    return {
        "first": first,
        "name": f"{first} {last}",
        "email": f"{first}.{last}{rng.randrange(100)}@example.com".lower(),
        "phone": rng.choice(("+44 7700 900{:03d}", "(555) 555-01{:02d}", "555-555-01{:02d}")).format(
            rng.randrange(100)
        ),
        "key": rng.choice(("sk_live_", "sk-proj-", "llk_", "AKIA"))
        + f"{rng.getrandbits(128):032X}"[: rng.choice((16, 24, 32))],
        "product": product,
        "product2": product2,
        "city": rng.choice(texts.CITIES),
        "carrier": rng.choice(texts.CARRIERS),
        "order": f"LL-{rng.randrange(100_000, 999_999)}",
        "amount": f"{rng.choice(('€', '€', '£'))}{rng.lognormvariate(3.6, 0.8):.2f}",
        "day": f"{day:%A}" if rng.random() < 0.6 else f"{day.day} {day:%B}",
        "date": f"{day.day}.{day.month}.{day.year}",
        "n": rng.randrange(2, 10),
    }


def new_turn(rng: random.Random, topic: Topic, words: dict[str, Any], language: str, *, is_first: bool) -> Turn:
    if language == "en":
        question = rng.choice(topic.asks if is_first else topic.follow_ups)
    else:
        question = rng.choice(texts.OTHER_LANGUAGES[language][0])
    failed = rng.random() < 0.03
    answer = None if failed and rng.random() < 0.4 else _answer(rng, topic, language, failed=failed)
    return Turn(
        topic,
        words,
        question.format_map(words),
        None if answer is None else answer.format_map(words),
        tools=rng.choice((0, 1, 1, 1, 2, 3)) or int(failed),
        failed=failed,
    )


def _answer(rng: random.Random, topic: Topic, language: str, *, failed: bool) -> str:
    """Return a template, from nothing at all to a page."""
    if failed:
        return rng.choice(texts.APOLOGIES)
    fault = rng.random()
    if fault < 0.004:
        return ""
    if fault < 0.015 or (topic.name == "out_of_scope" and fault < 0.7):
        return rng.choice(texts.REFUSALS)
    if language == "en" and fault < 0.03:
        # Answered in a language that nobody asked for.
        return rng.choice(texts.OTHER_LANGUAGES[rng.choice(tuple(texts.OTHER_LANGUAGES))][1])
    if language != "en":
        return " ".join(rng.sample(texts.OTHER_LANGUAGES[language][1], rng.randrange(1, 3)))
    wanted = max(1, round(rng.lognormvariate(0.9, 0.65)))
    body = rng.sample(topic.answers, min(wanted, len(topic.answers)))
    parts = [rng.choice(texts.OPENERS), " ".join(body)]
    if wanted > 4 and topic.name != "out_of_scope":
        steps = rng.sample(texts.STEPS, rng.randrange(3, len(texts.STEPS)))
        parts.append("\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1)))
    if wanted > 6:
        parts += rng.sample(texts.POLICY, min(wanted - 5, len(texts.POLICY)))
    if rng.random() < 0.035:
        parts.append(rng.choice(texts.PERSONAL))
    if rng.random() < 0.004:
        parts.append(rng.choice(texts.LEAKS))
    parts.append(rng.choice(texts.CLOSERS))
    return ("\n\n" if wanted > 4 else " ").join(part for part in parts if part)
