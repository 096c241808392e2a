"""The audit: what the records and this node's kernel say of each other, what is told, and what is mended."""
