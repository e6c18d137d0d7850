"""The report: one self-contained web page about one run."""
