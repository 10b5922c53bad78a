"""Results: what is due, what is staged, merged and current, and what it comes to."""
