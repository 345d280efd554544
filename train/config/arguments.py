"""The parser of the commands that take options instead of settings, from the docstring of their module."""

import argparse


def parser_of(command: str, doc: str) -> argparse.ArgumentParser:
    """The parser of `python -m command`; `doc` is what it does, a `usage:` line, and what `--help` says at the end."""
    about, _, rest = doc.partition("\n\nusage: ")
    return argparse.ArgumentParser(
        prog=f"python -m {command}",
        description=about,
        epilog=rest.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
