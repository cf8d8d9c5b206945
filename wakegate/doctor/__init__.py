"""`wakegate doctor`: is everything around `wakegate serve` as it must be? One line per finding, each with its fix.

It takes the options of `serve`, changes nothing, and may run beside a `serve` that is running. What is found is judged
by pure functions; sockets, files and clocks are at their edges. Exit status 1 if anything has to be mended.
"""
