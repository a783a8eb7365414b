"""A run's model in other forms, smaller or faster, each proved on the run's test rows."""
