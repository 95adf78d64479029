"""A camera source for healthd: {{plugin}}."""
