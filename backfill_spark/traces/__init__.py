"""Traces: what a scorer sees of one, where they come from, and the filters over them."""
