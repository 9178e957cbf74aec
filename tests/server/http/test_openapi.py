"""The description of the HTTP port is what the port does."""

import sys
from pathlib import Path

import processes
from http_support import HttpServer


def test_description_has_every_route_and_no_other(http: HttpServer) -> None:
    """Each path answers, and what is not described is not there."""
    paths = http.get("/openapi.json").json()["paths"]
    filled = {path.replace("{name}", "digits").replace("{version}", "1"): path for path in paths}
    for path, template in filled.items():
        [method] = [name for name in paths[template] if name != "parameters"]
        assert http.session.request(method, http.url + path).status_code in (200, 415), path
        assert http.session.request("DELETE", http.url + path).status_code == 405
    assert len(paths) == len(filled) == 22


# That a text is a picture, or the name of a label, cannot be said in a schema: such requests may be refused. A deadline
# that is too short is answered by 504.
CONFIG = """
[checks]
positive_data_acceptance.enabled = false
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 504]
"""


def test_every_reply_conforms(http: HttpServer, tmp_path: Path) -> None:
    """Schemathesis makes right and wrong requests of the description, and holds every reply against it."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "--config-file", str(config), "run", f"{http.url}/openapi.json"]
    options = ["--max-examples", "10", "--seed", "1", "--phases", "examples,coverage,fuzzing", "--no-color"]
    completed = processes.run([*command, *options], cwd=tmp_path)
    assert completed.returncode == 0, completed.stdout[-20_000:]
