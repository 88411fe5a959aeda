"""Batch studies: a file that declares what to compare, and what comes of it: data and a report."""
