"""A scorer's function as it is stored: pickled, with what it depends on, its source and its digest."""
