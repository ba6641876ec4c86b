"""What it takes to find near-duplicates in a large dataset."""
