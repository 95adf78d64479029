"""Renders a small gym with a mannequin and equipment, and knows exactly where everything is on the picture."""
