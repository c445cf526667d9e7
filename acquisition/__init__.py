"""Acquisition: from an address on the internet to a complete dataset on the disk, without TensorFlow."""
