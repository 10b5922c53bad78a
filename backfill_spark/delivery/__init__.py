"""Results back: what a job has merged, delivered to the server or table where people look at their traces."""
