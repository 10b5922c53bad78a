"""Which errors hide an interrupt."""

from __future__ import annotations

from typing import Any

from backfill_spark.errors import interrupt_behind


def raised(*errors: Any, before: Any = None) -> Any:
    """Return the last of `errors`, each raised while the one before it was handled."""
    caught = before
    for error in errors:
        try:
            try:
                if caught is not None:
                    raise caught
            finally:
                raise error
        except BaseException as last:
            caught = last
    return caught


def test_an_interrupt_is_found_behind_the_errors_of_a_clean_up() -> None:
    """However many there are; `from None` hides it from a reader only."""
    interrupt = KeyboardInterrupt()
    assert interrupt_behind(raised(interrupt, OSError(), ValueError())) is interrupt


def test_an_interrupt_itself_is_one() -> None:
    """SystemExit, too."""
    error = SystemExit(1)
    assert interrupt_behind(error) is error


def test_an_error_alone_hides_nothing() -> None:
    """Nor does no error."""
    assert interrupt_behind(raised(OSError(), ValueError())) is None
    assert interrupt_behind(None) is None


def test_an_interrupt_from_before_the_work_is_none_of_it() -> None:
    """A notebook may start a job while it handles an interrupt."""
    earlier = KeyboardInterrupt()
    assert interrupt_behind(raised(OSError(), before=earlier), earlier=earlier) is None
