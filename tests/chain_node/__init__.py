"""A node of a chain for tests: real runtime metadata, real answers, and the faults of real nodes."""
