"""Other programs' configurations as cases, and cases as other programs' configurations."""
