"""Client of a Headwise server, and the bundle format that exporter and server share."""
