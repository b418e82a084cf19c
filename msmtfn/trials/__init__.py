"""The whole job put to the test, on servers and clusters of its own."""
