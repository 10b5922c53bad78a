"""Which pairs of trace and scorer a job takes."""
