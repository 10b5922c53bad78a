"""A backfill: checked, planned, submitted, run to its end, and cleaned up after."""
