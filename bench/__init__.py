"""The benchmark: tidings against its peers, in one run. See README.md in this folder."""
