"""What the phases that answer questions share: reading areas from files and flags, and outline pictures."""
