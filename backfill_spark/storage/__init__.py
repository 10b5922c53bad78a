"""The Spark session, Delta tables and small files beside them."""
