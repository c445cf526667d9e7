"""The phases, one file each, to be read from top to bottom. Only `reproduce` imports others."""
