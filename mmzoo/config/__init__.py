"""What a user asks for: methods, settings, data sets, suites; and the resolved run that follows. No torch at import."""
