"""What a student kept of its teacher, as figures and as a page."""
