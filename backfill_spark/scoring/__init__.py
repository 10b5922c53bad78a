"""What happens to one pair: call the scorer, judge what it returned, make rows of it."""
