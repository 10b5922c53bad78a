"""Asking models: endpoints, the client, its limits, and what keeps answers safe until they are in a table."""
