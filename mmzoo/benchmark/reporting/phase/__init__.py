"""The phase diagram: which method wins under which settings of a data set with knobs, as a table and as a chart."""
