"""Rows of the operator tests, one file per family; each file has a list `CASES`."""
