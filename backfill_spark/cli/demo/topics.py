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
        22,
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
        "late_delivery",
        12,
        "track_parcel",
        ("When a parcel is late", "Delivery times by region"),
        (
            "My parcel was due on {day} and it is still not here. {order}. This is really annoying.",
            "{carrier} says delivered but I have nothing. What now? Order {order}",
            "I have waited {n} days longer than promised for my {product}. When does it come, or do I get my money back?",
            "Third time I write!! {order} is late and nobody answers.",
            "The driver left a card in {city} but the shop does not have my parcel.",
        ),
        (
            "I do not want to wait any longer. Refund please.",
            "Who pays me for the day I took off?",
            "OK, and if it is not there on {day}?",
            "Can you send a new one by express?",
        ),
        (
            "I am sorry that you are still waiting for the {product}.",
            "I have opened a search with {carrier} for {order}; they answer within {n} working days.",
            "Sometimes a parcel is marked as delivered a few hours before it really is, so please look again this evening.",
            "If the search finds nothing by {day}, we send a new {product} or refund {amount}, as you like.",
            "There is a strike at the depot in {city}, which has put deliveries back by two or three days.",
            "Please check with your neighbours and in the place where you allow parcels to be left.",
            "I have added a note so that the delivery cost of {amount} is given back to you in any case.",
            "You need not do anything else: I will write to the address in your account as soon as I know more.",
        ),
    ),
    Topic(
        "refund",
        14,
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
        "return",
        11,
        "create_return_label",
        ("Sending something back", "What cannot be returned"),
        (
            "How do I send back the {product}? It is too big for my balcony.",
            "Can I return seeds that I have opened?",
            "I need a return label for {order} please, my name is {name}.",
            "The {product} does not look like the picture. I would like to swap it for a {product2}.",
            "Is the return free if I live in {city}?",
        ),
        (
            "I have no printer. What do I do?",
            "Can it be collected from my home?",
            "How many days do I have?",
            "I threw the box away, is that a problem?",
        ),
        (
            "You can send the {product} back within 30 days of its delivery.",
            "I have made a return label for {order}; it is in your account under Returns.",
            "Without a printer, show the code on your phone at any {carrier} shop and they print it.",
            "Opened seeds and cut plants cannot be resold, so we cannot take them back.",
            "Any sturdy box will do; please put the delivery note inside.",
            "The return is free within the country; from elsewhere we keep {amount} of the refund.",
            "To swap it for a {product2}, order that one now: the refund of the first follows when it is back.",
            "Heavy things such as the {product} are collected from your home on a day that you choose.",
        ),
    ),
    Topic(
        "damaged",
        8,
        "create_claim",
        ("When something arrives broken",),
        (
            "The {product} arrived broken. Photos attached. Order {order}.",
            "One of the {product}s in my parcel has a crack right through it.",
            "My {product} stopped working after {n} days!",
            "You sent me a {product2}, I ordered a {product}. {order}",
        ),
        (
            "Do you need the broken one back?",
            "I would rather have part of the money back and keep it.",
            "Same thing happened last year by the way.",
        ),
        (
            "That should not have happened, and I am sorry about the broken {product}.",
            "A new one leaves our warehouse on {day}; you pay nothing for it.",
            "Please keep the broken one until {carrier} has looked at the claim, usually {n} days.",
            "If you would rather keep it, I can refund {amount} instead.",
            "Two photographs are enough: one of the damage and one of the whole parcel.",
            "Electrical goods have a guarantee of two years, so this one is covered.",
            "We have told the packing team in {city}, who now use a stronger box for it.",
            "It seems that two labels were swapped. The right {product} goes out today.",
        ),
    ),
    Topic(
        "password",
        9,
        "send_reset_link",
        ("Signing in", "Keeping your account safe"),
        (
            "I cannot sign in. The reset mail never comes.",
            "Forgot my password, help",
            "My account is locked after {n} tries. Name: {name}",
            "Somebody in {city} signed in to my account, was that you?",
            "How do I turn on two-step sign-in?",
        ),
        (
            "Still nothing, also not in spam.",
            "It says the link is too old.",
            "Which address do you have for me?",
        ),
        (
            "I have sent a new reset link; it works for 30 minutes.",
            "Mails from us sometimes land in the spam folder, so please look there for 'Larch and Loam'.",
            "Only the newest link works: each request makes the earlier ones invalid.",
            "After five wrong tries an account is locked for an hour, then it opens by itself.",
            "We never ask for your password, neither by mail nor on the phone.",
            "Two-step sign-in is under Account, Security; you need an authenticator app once.",
            "I have ended all other sessions, so whoever was signed in is not any more.",
            "Please choose a password that you use nowhere else, of at least twelve characters.",
        ),
    ),
    Topic(
        "invoice",
        8,
        "get_invoice",
        ("Invoices and tax numbers",),
        (
            "I need an invoice with my company's tax number for {order}.",
            "Where can I download the invoice for my {product}?",
            "The invoice for {order} has the wrong address, I moved to {city}.",
            "You charged me {amount} twice!",
        ),
        (
            "Our accountant needs it as a PDF, not a link.",
            "Can you send it to my colleague as well?",
            "And for the order before that one?",
        ),
        (
            "The invoice for {order} is in your account under Orders, Documents.",
            "I have changed the address to {city} and made a corrected invoice; the old one is cancelled.",
            "A tax number can be added until the order is sent; afterwards we make a corrected invoice.",
            "The second {amount} is a reservation that your bank drops within {n} days; only one was booked.",
            "Invoices are kept for ten years and can be downloaded at any time.",
            "The PDF holds the order number, the tax at each rate and the date of the delivery.",
        ),
    ),
    Topic(
        "product",
        11,
        "search_products",
        ("Choosing a planter", "Watering guide", "Care of wooden furniture"),
        (
            "Is the {product} frost-proof?",
            "Which is better for a north-facing balcony, the {product} or the {product2}?",
            "When will the {product} be in stock again?",
            "What size is the {product} inside, in centimetres?",
            "Can I leave the {product} outside in winter in {city}?",
        ),
        (
            "How much does it weigh?",
            "Do you have it in green?",
            "And what would you put in it?",
            "Is it made in Europe?",
        ),
        (
            "The {product} can stand outside all year, down to minus 15 degrees.",
            "For a shady balcony I would take the {product}, because it dries out more slowly than the {product2}.",
            "It is back in stock around {day}; leave your address on its page and you are told first.",
            "The inside measures 56 by 24 by 22 centimetres, and it holds 29 litres of soil.",
            "Untreated wood turns grey after one or two years; a coat of beeswax oil each spring keeps its colour.",
            "It costs {amount} and is made by a workshop near {city}.",
            "Put a layer of gravel at the bottom so that the water can drain.",
            "Customers who have it give it 4.6 of 5 stars; a few find the screws too short.",
            "Water it in the evening, twice a week in summer and hardly at all in winter.",
        ),
    ),
    Topic(
        "change_order",
        9,
        "update_order",
        ("Changing or cancelling an order",),
        (
            "Please change the address of {order} to {city}, I typed the wrong one.",
            "Cancel {order} please, I ordered the {product} twice.",
            "Can I add a {product2} to {order}?",
            "The discount code was not taken off, I paid {amount} too much.",
        ),
        (
            "Too late? It was only an hour ago.",
            "Please confirm that the cancellation went through.",
            "And the code, can I use it again?",
        ),
        (
            "I have changed the address of {order} to {city}.",
            "{order} is cancelled, and {amount} goes back to your card.",
            "The parcel is already with {carrier}, so I can only ask them to turn it round.",
            "An order can be changed until it is packed, which is about two hours after you place it.",
            "Adding the {product2} is no problem; it comes in the same parcel.",
            "The code is for orders above {amount}, and one thing in your basket was already reduced.",
            "I have credited the difference, and the code can be used once more until {day}.",
        ),
    ),
    Topic(
        "account",
        5,
        "update_account",
        ("Your data", "Newsletter and messages"),
        (
            "Please delete my account and all data you have on me. {name}",
            "Take me off the newsletter, I have asked {n} times.",
            "What data do you keep about me?",
            "I want to change my e-mail address.",
        ),
        (
            "How long does that take?",
            "Do you also tell {carrier}?",
        ),
        (
            "You are off the newsletter; one that is already on its way may still reach you.",
            "Your account is deleted within 30 days, invoices excepted, which the law makes us keep.",
            "A copy of your data can be asked for under Account, Privacy and is ready within {n} days.",
            "The new address has to be confirmed by the link that we sent to it.",
            "We keep your name, your addresses and your orders, and no card numbers at all.",
        ),
    ),
    Topic(
        "out_of_scope",
        3,
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
