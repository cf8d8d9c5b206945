"""The command: cli, configuration, supervisor. The only package that knows every other."""
