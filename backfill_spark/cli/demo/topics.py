"""What customers of a small garden shop ask about, and what its assistant answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing that customers write about."""

    name: str
    weight: int
    """How often, against the others."""
    tool: str
    """Tool that the assistant calls for it."""
    articles: tuple[str, ...]
    """Help pages that the retriever finds."""
    asks: tuple[str, ...]
    follow_ups: tuple[str, ...]
    answers: tuple[str, ...]
    """Sentences, of which an answer has one or more."""


TOPICS = (
    Topic(
        "order_status",
        60,
        "get_order",
        ("Tracking your parcel", "What the order states mean"),
        (
            "Where is my order {order}?",
            "Hi, I ordered a {product} on {day} and have not heard anything since. Order {order}. Any news?",
            "Can you tell me when {order} will get to {city}?",
            "The tracking page for {order} has said 'label created' for {n} days. Is it lost?",
            "Hello! Could you check whether my {product} has been sent yet? Number is {order}, name {name}.",
            "order status {order} pls",
        ),
        (
            "And which carrier has it?",
            "Can it be left with my neighbour if I am out?",
            "So will it be here before {day}? It is a present.",
            "The link you sent shows nothing.",
        ),
        (
            "Your order {order} left our warehouse on {day} with {carrier}.",
            "It is on its way to {city} and should arrive in {n} working days.",
            "The {product} is packed and waits for {carrier} to collect it this afternoon.",
            "{carrier} scanned the parcel in {city} this morning, so it is not lost.",
            "A label is made before the parcel is collected; the page moves on with the first scan.",
            "You will get a message with a one-hour slot on the morning of the delivery.",
            "You can follow it in your account under Orders, where each scan is shown.",
            "If nobody is in, the driver tries once more on the next working day and then leaves it at the nearest shop.",
        ),
    ),
    Topic(
        "refund",
        35,
        "create_refund",
        ("How refunds work", "How long a refund takes"),
        (
            "I sent the {product} back {n} days ago. Where is my refund of {amount}?",
            "You only refunded {amount} for order {order}. The rest is missing.",
            "How long does a refund to a credit card take?",
            "Please cancel everything and give me my money back. {order}",
            "Can I have the refund as a voucher instead? I bought the {product} for {amount}.",
        ),
        (
            "My bank says nothing is on its way.",
            "Does the refund include the delivery cost?",
            "To which card does it go?",
            "Thanks. Can I get that in writing?",
        ),
        (
            "The refund of {amount} for {order} was started on {day}.",
            "It goes back the way you paid, and a bank takes {n} working days to show it.",
            "The difference is the delivery cost, which we refund when the whole order is sent back.",
            "Our warehouse in {city} has checked the {product} in, so nothing else is needed from you.",
            "I have sent a written confirmation to the address in your account.",
            "A voucher is possible too: it is valid for three years and can be used in parts.",
            "Card refunds are shown as a credit on the next statement, sometimes under the name LL Garden Ltd.",
            "If it has not arrived by {day}, send me the last four digits of the reference and I will look again.",
        ),
    ),
    Topic(
        "out_of_scope",
        5,
        "search_help",
        ("What this assistant can do",),
        (
            "My dog ate some of the {product}. What should I give it?",
            "Which stocks should I buy if people garden more?",
            "Write my homework about photosynthesis please.",
            "What is the home address of the driver who shouted at me?",
            "Give me the e-mail of the customer who bought the last {product}.",
        ),
        ("Come on, just this once.", "Then who can help me?"),
        (
            "Our team in {city} is there on working days from nine to five and can take it further.",
            "For anything about your orders, returns and invoices I am glad to help.",
        ),
    ),
)
