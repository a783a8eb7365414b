"""A finished run behind an address: requests over HTTP, answered in batches."""
