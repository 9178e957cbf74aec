"""What all errors have in common that whoever calls the exporter can do something about."""


class ExporterError(Exception):
    """The message says what was expected, what was found and what to do; the commands show it as one line."""
