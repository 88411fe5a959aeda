"""Calibration: a user's own measured runs in, a profile of their machine out, which cases name as their device."""
