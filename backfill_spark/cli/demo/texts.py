"""Who and what the demo is about, and sentences that fit every topic.

Every person, order and address is made up: addresses end in example.com, phone numbers lie in ranges kept for fiction.
"""

from __future__ import annotations

FIRST_NAMES = (
    "Ada Ben Carla Dmitri Elif Femi Grace Hugo Ines Jonas Kavya Liam Mara Noor Olga Pablo Quinn Rosa Sven Tara "
    "Umar Vera Wanda Xavi Yara Zane Amal Bruno Chloe Daan Emeka Freya Goran Hana Ivo Jada Kofi Lena Miguel Nia"
).split()
LAST_NAMES = (
    "Almeida Brandt Castillo Dorsey Eriksen Fontaine Gruber Haddad Ivanov Jansen Kimura Lindqvist Moreau Nowak "
    "Okafor Petersen Quist Romano Silva Tanaka Usman Varga Whitfield Yilmaz Zeller Abbott Bianchi Costa Dube Ekholm"
).split()
CITIES = (
    "Bristol,Leeds,Cork,Utrecht,Ghent,Porto,Malmö,Graz,Lyon,Bilbao,Turku,Aarhus,Brno,Gdansk,Zurich,Portland,"
    "Boise,Halifax,Wellington,Perth"
).split(",")
PRODUCTS = (
    "Larch planter box|oak seed tray|copper watering can|rain barrel, 200 l|folding pruning saw|bamboo trellis|"
    "LED grow lamp|compost tumbler|terracotta pot, 30 cm|merino work gloves|stainless hand trowel|herb starter kit|"
    "drip irrigation set|bird feeding station|cold frame, two doors|wool mulch mat|potting bench|heirloom tomato seeds|"
    "dahlia bulbs, pack of ten|solar path lights|garden kneeler|hose reel, 25 m|soil moisture meter|beeswax wood oil"
).split("|")
CARRIERS = ("ParcelNord", "GreenWheel", "Swift Post", "Postbird")
MODELS = ("larch-chat-2", "larch-chat-2", "larch-chat-2", "larch-chat-3-preview")


OPENERS = (
    "Hello {first}, thank you for your message.",
    "Hi {first}!",
    "Thanks for getting in touch, {first}.",
    "Good day {first},",
    "I have looked into this for you.",
    "",
    "",
)
CLOSERS = (
    "Is there anything else I can do for you?",
    "Have a good day in the garden!",
    "Kind regards, your Larch & Loam assistant",
    "Just write again if anything is unclear.",
    "",
    "",
    "",
)
STEPS = (
    "Open your account and choose the order.",
    "Press 'Something is wrong' beside the {product}.",
    "Choose what happened; a photograph helps but is not needed.",
    "Say whether you would like a new one or a refund of {amount}.",
    "Print the label, or show the code at a {carrier} shop.",
    "Hand the parcel in by {day} and keep the receipt.",
    "Wait for our message, which comes within {n} working days.",
)
POLICY = (
    "Orders above 60.00 are delivered free of charge within the country, smaller ones cost 4.90, and heavy goods that "
    "go by freight cost 19.00 whatever their number.",
    "You may withdraw from the contract within 30 days without giving a reason; the time is kept when the goods are "
    "sent off before it ends.",
    "Plants, seeds and bulbs are living things and are excluded from returns once their packing is open, but not from "
    "the guarantee that they grow.",
    "We answer for faults that were there at delivery for two years, and for wooden furniture made in our own workshop "
    "for five.",
    "Data are kept for as long as an order needs them and are given to nobody but the carrier and the payment service.",
    "Vouchers are valid for three years, can be used in parts, and are not paid out in cash.",
)
APOLOGIES = (
    "I'm sorry, something went wrong while I looked up {order}. Please try again in a few minutes.",
    "I apologise for the trouble: our order system does not answer at the moment.",
    "Sorry, I could not reach {carrier} just now, so I cannot say where the parcel is.",
)
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I'm sorry, I can't share details about other customers or our staff.",
    "I'm not able to give medical advice. Please ask a vet or a doctor about it.",
    "That is outside what I can do here; I only know about orders at Larch & Loam.",
)
OTHER_LANGUAGES = {
    "de": (
        ("Wo bleibt meine Bestellung {order}?", "Wie kann ich {product} zurückschicken?"),
        (
            "Ihre Bestellung {order} wurde am {date} mit {carrier} verschickt und kommt in {n} Werktagen an.",
            "Das Rücksendeetikett finden Sie in Ihrem Konto unter Retouren. Die Erstattung von {amount} folgt danach.",
            "Es tut uns leid, dass Sie warten mussten. Wir haben einen Nachforschungsauftrag gestellt.",
        ),
    ),
    "es": (
        ("¿Dónde está mi pedido {order}?", "Quiero devolver {product}, ¿qué hago?"),
        (
            "Su pedido {order} salió el {date} con {carrier} y llegará en {n} días laborables.",
            "Puede devolverlo en 30 días. La etiqueta está en su cuenta, en Devoluciones.",
            "Sentimos mucho el retraso; le devolvemos {amount} por los gastos de envío.",
        ),
    ),
    "fr": (
        ("Où est ma commande {order} ?", "Comment renvoyer {product} ?"),
        (
            "Votre commande {order} est partie le {date} avec {carrier} et arrivera dans {n} jours ouvrés.",
            "L'étiquette de retour se trouve dans votre compte. Le remboursement de {amount} suivra.",
            "Nous sommes désolés de ce retard et avons ouvert une enquête auprès de {carrier}.",
        ),
    ),
}
PERSONAL = (
    "The confirmation goes to {email}.",
    "Our records show {email} as the address of {name}.",
    "You can also call {name} from our team on {phone}.",
    "The driver's number is {phone}, should you want to reach him.",
    "Another customer with the same order, {email}, has confirmed this.",
)
LEAKS = (
    "Debug: GET /v2/orders/{order} Authorization: Bearer {key}",
    "(internal: carrier_api_key={key})",
    'config = {{"payments_secret": "{key}", "region": "eu"}}',
)
