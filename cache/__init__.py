"""The semantic cache. Importing this package imports no store and no model."""

if __name__ != "funnel.cache":
    raise ImportError(f"import this package as 'funnel.cache', not {__name__!r}")
