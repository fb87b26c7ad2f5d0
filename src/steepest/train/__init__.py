"""Ways of training that wrap a whole model: a package for each."""
