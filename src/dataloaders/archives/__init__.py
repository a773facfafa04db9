"""The data sets of the paper: their official archives, and what is read from them."""
