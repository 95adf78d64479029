"""The figures of docs/benchmarks.md: anyone can measure them with `make bench`."""
