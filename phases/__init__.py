"""The phases: one file each, read from top to bottom, is the story of that phase. Only `reproduce` imports others."""
