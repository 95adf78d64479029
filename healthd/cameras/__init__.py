"""The heart: everything that keeps a camera going. Knows no HTTP."""
