"""Models: loaded once, shared by cameras and requests."""
