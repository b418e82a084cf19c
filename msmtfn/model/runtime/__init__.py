"""Fast and exact ways to run the network: without padding, with packed weights, in fewer bits."""
