"""What saliency maps say: shares of areas, hot spots, crops and comparisons, on arrays."""
