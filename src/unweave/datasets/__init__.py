"""Data sets of labelled images, one file each, registered under the name that the command line uses."""
