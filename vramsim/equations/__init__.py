"""Pure functions of numbers or arrays: each formula once, with its unit, its number in docs/equations and its source."""
