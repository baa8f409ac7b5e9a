"""How each kind of media is read: one file a kind. Nothing heavy at import; libraries are loaded when a file is read."""
