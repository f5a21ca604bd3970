"""Models whose forward passes run in other processes, each with a GPU of its own."""
