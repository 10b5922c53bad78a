"""A lease that ends because nothing could be written says what kept it from being written."""

from __future__ import annotations

import errno
import time
from types import SimpleNamespace
from typing import Any

import pytest

from backfill_spark.errors import LeaseLostError
from backfill_spark.jobs.events import Claim, End
from backfill_spark.jobs.lease import Lease
from backfill_spark.settings.schema import Settings
from backfill_spark.storage.retry import error_text


def a_lease(error: Exception, *, claimed_s_ago: float = 0.0) -> Lease:
    """Return a lease of a moment, whose writes fail."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    settings = Settings(limits={"lease_s": 0.3, "heartbeat_s": 0.1})
    store: Any = SimpleNamespace(settings=settings, end=fail, write=fail)
    record: Any = SimpleNamespace(job_id="bf-1", epoch=1, cancel_requested=False, owner="me")
    return Lease(store, Claim(record, time.monotonic() - claimed_s_ago))


def test_a_full_disk_is_named_and_not_only_the_lease_that_it_costs() -> None:
    """The end of a job cannot be written until the lease is over: then the disk is told."""
    lease = a_lease(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(
        LeaseLostError, match=r"^The disk is full \(No space left on device\).*Make room, then"
    ) as raised:
        lease.end(End.SUCCEEDED, {})
    assert "backfill-spark resume bf-1" in str(raised.value)


def test_a_full_disk_is_found_far_down_in_a_java_trace() -> None:
    """Spark's first line says no more than that a job was aborted."""
    error = RuntimeError(
        "An error occurred while calling o12.save.\n: org.apache.spark.SparkException: Job aborted.\n"
        "Caused by: java.io.IOException: No space left on device\n\tat java.base/sun.nio.ch"
    )
    assert error_text(error).startswith("The disk is full")


def test_a_lease_that_is_over_without_an_error_says_no_more() -> None:
    """A process that stood still has no failed write to tell of."""
    lease = a_lease(OSError())
    lease._renewed = time.monotonic() - 1
    with pytest.raises(LeaseLostError, match=r"two thirds of the lease\. "):
        lease.check()


def test_a_lease_runs_from_its_claim_and_not_from_the_moment_in_which_it_is_made() -> None:
    """Between the two a job that runs at once looks for others that cover its pairs."""
    with pytest.raises(LeaseLostError, match=r"two thirds of the lease"):
        a_lease(OSError(), claimed_s_ago=1.0).check()
