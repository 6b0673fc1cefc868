"""What builds the documentation beside its pages."""
