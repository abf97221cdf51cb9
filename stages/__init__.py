"""Stage kinds: one file each. Importing this package imports none of them (see the registry)."""

if __name__ != "funnel.stages":
    raise ImportError(f"import this package as 'funnel.stages', not {__name__!r}")
