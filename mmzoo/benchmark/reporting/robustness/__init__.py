"""Tables and charts of the scores of models under stress. No torch or numpy at import."""
