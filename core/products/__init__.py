"""What the products of satellites and aerial surveys are: their files, bands, units and times."""
