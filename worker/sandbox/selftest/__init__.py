"""Attack a real sandbox to find out which isolation features hold."""
