"""Tasks of your own, for the experiment `folder`: what is found in a folder, and how pictures are read."""
