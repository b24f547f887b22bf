"""Public help for people who write plug-ins."""
