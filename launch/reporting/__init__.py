"""What the report shows, and where it finds it."""
