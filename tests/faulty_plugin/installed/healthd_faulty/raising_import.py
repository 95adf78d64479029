"""A module that cannot be imported."""

raise ImportError("libwonder.so.1: cannot open shared object file")
