"""The page's files are served with what keeps them from asking anyone else."""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest
from headwise_server.http import page
from http_support import HttpServer, running_http_server, status_of


@pytest.fixture(scope="module")
def http_with_page(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """A server with the page, which asks for tokens."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    tokens.write_text(f'[tokens.alice]\nsha256 = "{"0" * 64}"\nmodels = ["*"]\nactions = ["explain"]\n')
    with running_http_server(repository, "--ui", "--tokens", str(tokens)) as server:
        server.wait_until_ready()
        yield server


@pytest.mark.parametrize("path", ["/", "/ui"])
def test_first_path_leads_to_the_page_behind_any_prefix(http_with_page: HttpServer, path: str) -> None:
    """By an address relative to the one that was asked for."""
    response = http_with_page.get(path, allow_redirects=False)
    assert response.status_code == 307
    assert urljoin(f"https://proxy.example/behind{path}", response.headers["location"]).endswith("/behind/ui/")


def test_every_file_is_served_without_a_token_under_a_strict_policy(http_with_page: HttpServer) -> None:
    """Nothing inline, nothing from elsewhere, no cookie; each with its type."""
    for name, content in page.page_files().items():
        response = http_with_page.get(f"/ui/{name}")
        assert (response.status_code, response.content) == (200, content)
        assert response.headers["content-type"].split(";")[0] == page.MEDIA_TYPES[name.rpartition(".")[2]]
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "set-cookie" not in response.headers
    assert http_with_page.get("/ui/").content == page.page_files()["index.html"]


def test_page_names_its_own_files_by_relative_addresses_alone() -> None:
    """Each file that the page names is there."""
    contents = page.page_files()
    named = re.findall(r'(?:src|href)="([^"]+)"', contents["index.html"].decode())
    assert {address.removeprefix("./") for address in named} == set(contents) - {"index.html"}
    assert all(address.startswith("./") for address in named)


def test_file_that_is_known_is_not_sent_again(http_with_page: HttpServer) -> None:
    """Asked for with its tag, it is answered by 304."""
    tag = http_with_page.get("/ui/page.js").headers["etag"]
    response = http_with_page.get("/ui/page.js", headers={"if-none-match": tag})
    assert (response.status_code, response.content) == (304, b"")


@pytest.mark.parametrize("path", ["/ui/other.js", "/ui/..%2Findex.html", "/ui/%2e%2e%2fsettings.py", "/ui/a/b"])
def test_nothing_else_is_served(http_with_page: HttpServer, path: str) -> None:
    """No other file of the package."""
    assert status_of(http_with_page.get(path)) == (404, "PATH_NOT_FOUND")


@pytest.mark.parametrize("path", ["/", "/ui", "/ui/", "/ui/page.js"])
def test_page_is_not_there_unless_asked_for(http: HttpServer, path: str) -> None:
    """Without --ui."""
    assert status_of(http.get(path, allow_redirects=False)) == (404, "PATH_NOT_FOUND")


def test_page_leaves_the_models_to_tokens(http_with_page: HttpServer) -> None:
    """What the page asks the server for needs one."""
    assert status_of(http_with_page.get("/v1/models")) == (401, "UNAUTHENTICATED")
