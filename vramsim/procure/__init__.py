"""Procurement: from a workload to devices, their number and a strategy, with cost, energy and what would change it."""
