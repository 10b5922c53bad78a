"""What older versions stored is found under today's names."""

from __future__ import annotations

import base64
import pickle
from typing import Any

import cloudpickle
import pytest

from backfill_spark import Feedback, RegexMatch, Trace, scorer
from backfill_spark.errors import ScorerLoadError
from backfill_spark.scorers.stored_code import moved

OF_THE_FIRST_LAYOUT = "8fb7313cfffc45c159ac484e1baf6354cd117dd6fc888c99efd088d66a9fc70d"

# Registered scorers as versions before RegisteredScorer pickled them, in a function that holds one.
A_FUNCTION = (
    "gAJjYmFja2ZpbGxfc3Bhcmsuc2NvcmVycy5zY29yZXIKU2NvcmVyCnEAKYFxAX1xAihYBQAAAF9uYW1lcQNYAQAAAGZxBFgMAAAAX2Rlc2NyaX"
    "B0aW9ucQVYAQAAAGRxBlgNAAAAX3ZlcnNpb25fbm90ZXEHTlgNAAAAX2FnZ3JlZ2F0aW9uc3EITlgIAAAAX3RpbWVvdXRxCU5YCQAAAF9mdW5j"
    "dGlvbnEKTlgNAAAAX3JlZ2lzdHJhdGlvbnELY2JhY2tmaWxsX3NwYXJrLnNjb3JlcnMuc2NvcmVyClJlZ2lzdHJhdGlvbgpxDCmBcQ1dcQ4oWA"
    "EAAAAwcQ9LAlgCAAAAZDFxEEc/4AAAAAAAAE5jZGF0ZXRpbWUKZGF0ZXRpbWUKcRFjX2NvZGVjcwplbmNvZGUKcRJYCwAAAAfCsgEBAAAAAAAB"
    "cRNYBgAAAGxhdGluMXEUhnEVUnEWY2RhdGV0aW1lCnRpbWV6b25lCnEXY2RhdGV0aW1lCnRpbWVkZWx0YQpxGEsASwBLAIdxGVJxGoVxG1JxHI"
    "ZxHVJxHlgCAAAAbWVxH1gEAAAAMy4xMXEgWAUAAABkZWYgZnEhZWJYBQAAAF9zcGVjcSJjYmFja2ZpbGxfc3BhcmsubW9kZWxzClNjb3JlclNw"
    "ZWMKcSMpgXEkXXElKGgESwJoEGNiYWNrZmlsbF9zcGFyay5tb2RlbHMKU2NvcmVyS2luZApxJlgIAAAAZnVuY3Rpb25xJ4VxKFJxKX1xKlgEAA"
    "AAZUE9PXErWAcAAABvdXRwdXRzcSyFcS1HP+AAAAAAAABOKU5YBQAAAHRyYWNlcS5lYlgIAAAAX3Byb2JsZW1xL05YCgAAAF9zaWduYXR1cmVx"
    "MGgtWAQAAABraW5kcTFoKXViLg=="
)
A_BUILTIN = (
    "gAJjYmFja2ZpbGxfc3Bhcmsuc2NvcmVycy5idWlsdGluClJlZ2V4TWF0Y2gKcQApgXEBfXECKFgFAAAAX25hbWVxA1gBAAAAcnEEWAwAAABfZG"
    "VzY3JpcHRpb25xBVg6AAAAQ2hlY2sgd2hldGhlciBvdXRwdXQgbWF0Y2hlcyBhIHJlZ3VsYXIgZXhwcmVzc2lvbiBwYXR0ZXJuLnEGWA0AAABf"
    "dmVyc2lvbl9ub3RlcQdOWA0AAABfYWdncmVnYXRpb25zcQhOWAgAAABfdGltZW91dHEJTlgJAAAAX2Z1bmN0aW9ucQpOWA0AAABfcmVnaXN0cm"
    "F0aW9ucQtjYmFja2ZpbGxfc3Bhcmsuc2NvcmVycy5zY29yZXIKUmVnaXN0cmF0aW9uCnEMKYFxDV1xDihYAQAAADBxD0sDWAIAAABkM3EQRz/Q"
    "AAAAAAAATk5OTk5lYlgFAAAAX3NwZWNxEU5YCAAAAF9wcm9ibGVtcRJOWAoAAABfc2lnbmF0dXJlcRNYBwAAAG91dHB1dHNxFIVxFVgJAAAAX2"
    "NvbXBpbGVkcRZjcmUKX2NvbXBpbGUKcRdYAQAAAGFxGEsghnEZUnEaWAcAAABwYXR0ZXJucRtoGFgKAAAAbWF0Y2hfdHlwZXEcWAYAAABzZWFy"
    "Y2hxHVgQAAAAY2FzZV9pbnNlbnNpdGl2ZXEeiXViLg=="
)


def renamed(payload: bytes) -> bytes:
    """What an older version would have pickled: its names are as long as they like in protocol 0."""
    for first, today, names in moved._HOMES:
        for name in names or ("Feedback", "Trace"):
            payload = payload.replace(f"c{today}\n{name}\n".encode(), f"c{first}\n{name}\n".encode())
    return payload


@pytest.mark.parametrize("thing", [Feedback, Trace, RegexMatch], ids=lambda t: t.__name__)
def test_a_class_is_found_under_its_first_name(thing: Any) -> None:
    """A pickle that names the old module gives the class of today."""
    stored = renamed(pickle.dumps(thing, protocol=0))
    assert (b"traces" not in stored, moved.unpickled(stored)) == (True, thing)


def test_a_module_is_found_under_its_first_name() -> None:
    """A function may hold a module of ours."""
    from backfill_spark.traces import trace

    stored = cloudpickle.dumps(trace, protocol=0).replace(b"backfill_spark.traces.trace", b"backfill_spark.trace")
    assert moved.unpickled(stored) is trace


def test_the_digest_of_an_unchanged_scorer_is_what_it_was() -> None:
    """Else registering it again would make a new version, and pay for its results again."""

    @scorer
    def polite(outputs):  # type: ignore[no-untyped-def] # as people write it
        return Feedback(value="please" in outputs)

    assert polite.digest == OF_THE_FIRST_LAYOUT


def test_a_registered_scorer_that_an_older_version_pickled_is_what_it_was() -> None:
    """A stored function may hold one, and call it."""
    function, builtin = (moved.unpickled(base64.b64decode(stored)) for stored in (A_FUNCTION, A_BUILTIN))
    assert (function.name, function.scorer_version, function.digest, function.sample_rate) == ("f", 2, "d1", 0.5)
    assert (function.registration.source_text, function.signature) == ("def f", ("outputs",))
    with pytest.raises(ScorerLoadError, match=r"definition of the scorer 'f' version 2 cannot be loaded"):
        function(outputs="x")
    assert (builtin.name, builtin.scorer_version, builtin.digest, builtin(outputs="a").value) == ("r", 3, "d3", "yes")
