"""Configurations that are Python are data here, not modules to look for doctests in."""

collect_ignore_glob = ["data/*"]
