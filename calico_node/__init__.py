"""The resident agent: the same plugin, warm."""
