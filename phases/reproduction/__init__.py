"""What `reproduce` is made of: the plan, the ledger of what is done, what a step takes, and the page."""
