"""The shell: HTTP, Ray Serve, command line."""
