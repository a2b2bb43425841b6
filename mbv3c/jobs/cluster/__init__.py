"""Jobs on many machines, carried by Dask distributed."""
