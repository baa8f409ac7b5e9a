"""The documentation as a site: the pages of mmzoo/docs, and pages that are made from the catalogue and the docstrings."""
