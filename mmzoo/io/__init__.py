"""Files: atomic writes, YAML with line numbers, model weights from a hub or a folder."""
