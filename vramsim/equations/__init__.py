"""Pure functions of numbers or arrays: each formula once, with unit and source, and its number in docs/equations."""
