"""Pictures, curves and the report of the rounds, returned as figures and text."""
