"""What of a collection becomes a dataset: measures of its files, filters, duplicates, and a page about it."""
