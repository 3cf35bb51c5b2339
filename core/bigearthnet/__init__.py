"""What BigEarthNet v1 and v2 are: labels, official lists, patches on disk, one table of all."""
