"""`python -m featcache`: the command line."""

from featcache_cli.entry import run

if __name__ == "__main__":
    run()
