"""Traces of an MLflow server: its database or its REST interface, copied into a canonical Delta table."""
