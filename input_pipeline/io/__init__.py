"""Reading one scan or picture of any supported format, and writing label maps."""
