"""Every metric, span and log key, named once; and the cheapest way to count and write them."""
