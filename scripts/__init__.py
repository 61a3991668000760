"""What the make targets run: not part of the package."""
