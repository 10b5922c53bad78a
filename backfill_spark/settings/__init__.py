"""Settings: which there are, those of judges, where tables may lie, and which hold when none are given."""
