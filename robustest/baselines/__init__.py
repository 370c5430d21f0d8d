"""What others find, each written from its paper and run like our own search: same driver, budget and result type."""
