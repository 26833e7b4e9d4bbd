"""What it is."""
print(__doc__, __name__)
