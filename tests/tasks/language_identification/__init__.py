"""Language identification: an example of a whole task, which a test adds to a copy of the package."""
