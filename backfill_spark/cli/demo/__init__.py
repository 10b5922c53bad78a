"""A made-up history of a shop's support assistant, and the story that `backfill-spark demo` tells with it."""
