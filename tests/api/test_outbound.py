"""The guarded outbound client: what it refuses, what it allows, and its time limits."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from comfyserve.outbound import addresses, client
from comfyserve.outbound.client import Refused, TookTooLong, TooLarge, Unreachable, Unusable
from script.harness.waiting import wait_for
from tests.api.outbound_site import Site, fake_dns, fetch


@pytest.fixture
def site(settings) -> Iterator[Site]:
    settings.OUTBOUND_ALLOW = ["127.0.0.1"]
    site = Site()
    yield site
    site.stop()


@pytest.fixture
def dns(monkeypatch) -> dict[str, list[list[str]]]:
    return fake_dns(monkeypatch)


class TestSlowDNS:
    @pytest.fixture
    def silent(self, monkeypatch) -> Iterator[None]:
        answer = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [] * answer.wait(60))
        monkeypatch.setattr(addresses, "RESOLVE_SECONDS", 0.1)
        monkeypatch.setattr(client, "CHECK_SECONDS", 0.1)
        yield
        answer.set()

    def test_it_is_not_waited_for(self, silent):
        with pytest.raises(client.Unreachable, match="DNS does not answer"):
            fetch("http://example.com/")

    def test_a_name_that_is_not_listed_now_is_not_an_error(self, silent):
        client.check("http://example.com/")

    def test_few_checks_wait_for_it_and_the_others_do_without(self, silent, monkeypatch):
        """Otherwise a user whose DNS server is silent would hold all request threads."""
        monkeypatch.setattr(client, "CHECK_SECONDS", 60.0)

        def check() -> None:
            with contextlib.suppress(Refused):
                client.check("http://slow.example/")

        waiting = [threading.Thread(target=check, daemon=True) for _ in range(client.CHECKS_AT_ONCE)]
        for thread in waiting:
            thread.start()
        wait_for(lambda: client._checks._value == 0, what="the checks to wait for DNS")
        began = time.monotonic()
        client.check("http://example.com/")
        assert time.monotonic() - began < 30
        with pytest.raises(Refused):
            client.check("http://127.0.0.1/")
        assert all(thread.is_alive() for thread in waiting)


class TestCut:
    @pytest.mark.parametrize("page", ["silent", "dripping", "dripping_headers"])
    def test_cancellation_ends_every_wait(self, site, page):
        cancellation = client.Cancellation()
        threading.Timer(0.2, cancellation.cancel).start()
        with pytest.raises(client.TookTooLong):
            fetch(site.url(page), timeout=30, cancellation=cancellation)

    def test_a_request_cancelled_before_it_starts_is_not_sent(self, site):
        cancellation = client.Cancellation()
        cancellation.cancel()
        with pytest.raises(client.TookTooLong):
            fetch(site.url("silent"), timeout=30, cancellation=cancellation)


class TestCheck:
    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1", "127.255.0.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1",
            "169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16", "224.0.0.1",
            "255.255.255.255", "240.0.0.1", "198.18.0.1",
            "[::1]", "[::]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]", "[fec0::1]",
            "[::ffff:127.0.0.1]", "[::ffff:a9fe:a9fe]", "[::127.0.0.1]", "[64:ff9b::7f00:1]",
            "[::ffff:0:127.0.0.1]",
            "[64:ff9b::169.254.169.254]", "[64:ff9b:1::1]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::]",
            "[2001:0:7f00:1::]", "[2001:0:808:808:0:0:80ff:fffe]", "[2a00:1450::5efe:10.0.0.1]",
            "\uff11\uff12\uff17.\uff10.\uff10.\uff11", "127\u30020\u30020\u30021", "127.0.0.1.",
        ],
    )  # fmt: skip
    def test_it_refuses_addresses_inside(self, host):
        with pytest.raises(Refused):
            client.check(f"http://{host}/")

    @pytest.mark.parametrize(
        "host", ["8.8.8.8", "[2606:4700:4700::1111]", "[64:ff9b::8.8.8.8]", "1.1.1.1:8080"]
    )
    def test_it_lets_public_addresses_through(self, host):
        client.check(f"https://{host}/picture.png?size=1")

    @pytest.mark.parametrize(
        "host", ["0x7f.1", "0x7f000001", "2130706433", "127.1", "0177.0.0.1", "8.8.2056", "0x"]
    )
    def test_it_refuses_odd_spellings_even_of_public_addresses(self, host):
        with pytest.raises(Refused, match=r"four decimal|not one of the public"):
            client.check(f"http://{host}/")

    @pytest.mark.parametrize(
        "url",
        [
            "", "example.com", "/etc/passwd", "file:///etc/passwd", "gopher://example.com/", "ftp://example.com/",
            "javascript:alert(1)", "http://", "http:///path", "http://user:secret@example.com/",
            "http://example.com@127.0.0.1/", "http://example.com:99999/", "http://example.com:0/",
            "http://exa mple.com/", "http://example.com/\r\nX-Evil: 1", "http://example.com\\@127.0.0.1/",
            "http://example.com\x00.evil/", "http://[fe80::1%25eth0]/", "http://[::1/", "http://a..b/",
            "http://exam%70le.com/", "http://" + "a" * 300 + ".com/", "http://example.com/" + "a" * 9000,
        ],
    )  # fmt: skip
    def test_it_refuses_what_is_no_plain_web_address(self, url):
        with pytest.raises(Refused):
            client.check(url, resolve=False)

    def test_it_refuses_plain_http_where_only_https_will_do(self):
        with pytest.raises(Refused, match="https://"):
            client.check("http://8.8.8.8/", https_only=True)

    def test_a_name_that_resolves_to_an_internal_address_is_rejected(self, dns):
        dns["inside.example"] = [["10.0.0.7"]]
        with pytest.raises(Refused) as refusal:
            client.check("http://inside.example/")
        assert "10.0.0.7" not in refusal.value.message

    def test_it_takes_a_name_with_at_least_one_public_address(self, dns):
        dns["mixed.example"] = [["10.0.0.7", "8.8.8.8"]]
        client.check("http://mixed.example/")

    def test_it_takes_a_name_that_is_unknown_just_now(self, dns):
        client.check("http://unknown.example/")

    def test_it_skips_dns_when_configured_to(self, dns):
        dns["inside.example"] = [["10.0.0.7"]]
        client.check("http://inside.example/", resolve=False)

    @pytest.mark.parametrize(
        "entry, host",
        [
            ("10.0.0.0/8", "10.1.2.3"),
            ("10.1.2.3", "[::ffff:10.1.2.3]"),
            ("fd00::/8", "[fd00::1]"),
            ("store.inside", "store.inside"),
            ("*.inside", "a.store.inside"),
            ("STORE.Inside", "store.inside"),
        ],
    )
    def test_the_operator_may_allow_hosts_and_networks(self, settings, dns, entry, host):
        dns[host] = [["10.9.9.9"]]
        settings.OUTBOUND_ALLOW = [entry]
        client.check(f"http://{host}/")

    @pytest.mark.parametrize(
        "entry, host",
        [("10.0.0.0/8", "192.168.0.1"), ("store.inside", "my-store.inside"), ("*.inside", "inside")],
    )
    def test_an_allowed_address_allows_no_other(self, settings, dns, entry, host):
        dns[host] = [["192.168.0.1"]]
        settings.OUTBOUND_ALLOW = [entry]
        with pytest.raises(Refused):
            client.check(f"http://{host}/")


class TestGet:
    def test_it_gives_status_headers_and_body(self, site):
        with client.get(site.url("hello?a=b%20c&d=é"), max_bytes=5, timeout=5) as answer:
            assert (answer.status, answer.headers["x-mark"]) == (200, "seen")
            assert b"".join(answer.chunks()) == b"hello"
        assert site.requests[0][0] == "/hello?a=b%20c&d=%C3%A9"

    def test_a_status_that_is_no_success_is_an_answer_too(self, site):
        with client.get(site.url("missing"), max_bytes=5, timeout=5) as answer:
            assert (answer.status, answer.ok) == (404, False)

    def test_it_refuses_an_address_inside_without_a_connection(self, site, settings):
        settings.OUTBOUND_ALLOW = []
        with pytest.raises(Refused):
            fetch(site.url("hello"))
        assert site.requests == []

    def test_it_connects_to_the_address_that_was_judged(self, site, dns):
        dns["twice.example"] = [["127.0.0.1"], ["10.0.0.7"]]
        assert fetch(site.url("hello", "twice.example")) == b"hello"
        assert site.requests[0][1]["Host"] == f"twice.example:{site.port}"
        assert dns["twice.example"] == [["10.0.0.7"]], "it was looked up once"

    def test_it_tries_the_next_address_where_one_does_not_answer(self, site, dns, settings):
        settings.OUTBOUND_ALLOW = ["127.0.0.0/8"]
        dns["two.example"] = [["127.0.0.9", "127.0.0.1"]]
        assert fetch(site.url("hello", "two.example")) == b"hello"

    def test_it_never_uses_an_address_inside_of_a_name_that_has_both(self, site, dns, settings):
        settings.OUTBOUND_ALLOW = ["127.0.0.1"]
        dns["both.example"] = [["127.0.0.2", "127.0.0.1"]]
        other = socket.create_server(("127.0.0.2", site.port))
        with other:
            assert fetch(site.url("hello", "both.example")) == b"hello"
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.accept()

    def test_it_follows_redirects(self, site):
        site.redirect_to = "/hello"
        with client.get(site.url("away"), max_bytes=5, timeout=5) as answer:
            assert answer.url == site.url("hello")

    @pytest.mark.parametrize(
        "target",
        [
            "http://127.0.0.2/",
            "http://169.254.169.254/latest/meta-data/",
            "file:///etc/passwd",
            "http://[::1]/",
        ],
    )
    def test_it_judges_each_redirect(self, site, target):
        site.redirect_to = target
        with pytest.raises(Refused):
            fetch(site.url("away"))

    @pytest.mark.parametrize("target", ["http://[", "//[", "http://]x[/"])
    def test_a_redirect_to_no_address_is_unusable(self, site, target):
        site.redirect_to = target
        with pytest.raises(Unusable, match="not an address"):
            fetch(site.url("away"))

    @pytest.mark.parametrize("length", ["\u00b2", "9" * 5000, "-1", "x"])
    def test_a_length_that_is_no_number_counts_as_none(self, site, length):
        site.length = length
        assert fetch(site.url("odd_length")) == b"hello"

    def test_a_redirect_to_plain_http_is_refused_where_only_https_will_do(self):
        with pytest.raises(Refused):
            fetch("http://8.8.8.8/", https_only=True)

    def test_it_follows_a_circle_for_a_few_rounds_only(self, site):
        with pytest.raises(Unusable, match="redirects"):
            fetch(site.url("circle"))
        assert len(site.requests) == client.REDIRECTS + 1

    def test_credentials_stay_with_the_host_they_were_for(self, site, dns):
        dns["other.example"] = [["127.0.0.1"]]
        site.redirect_to = site.url("hello", "other.example")
        sent = {"Authorization": "Bearer secret", "Cookie": "a=b", "X-Api-Key": "secret", "Range": "bytes=0-"}
        fetch(site.url("away"), headers=sent)
        (_, first), (_, second) = site.requests
        assert first["Authorization"] == "Bearer secret"
        assert {"Authorization", "Cookie", "X-Api-Key"}.isdisjoint(second)
        assert second["Range"] == "bytes=0-"

    def test_credentials_go_along_on_the_same_host(self, site):
        site.redirect_to = "/hello"
        fetch(site.url("away"), headers={"Authorization": "Bearer secret"})
        assert site.requests[1][1]["Authorization"] == "Bearer secret"

    def test_it_reads_nothing_of_what_says_it_is_too_large(self, site):
        with pytest.raises(TooLarge):
            fetch(site.url("claims"))

    def test_it_stops_reading_what_does_not_say_so(self, site):
        with pytest.raises(TooLarge):
            fetch(site.url("endless"))

    def test_it_takes_no_compressed_body(self, site):
        with pytest.raises(Unusable, match="compressed"):
            fetch(site.url("squeezed"))
        assert site.requests[0][1]["Accept-Encoding"] == "identity"

    def test_a_body_that_is_cut_off_is_no_success(self, site):
        with pytest.raises(Unreachable):
            fetch(site.url("cut"))

    @pytest.mark.parametrize("page", ["dripping", "dripping_headers", "silent"])
    def test_its_time_is_up_even_if_bytes_drip(self, site, page):
        began = time.monotonic()
        with pytest.raises(TookTooLong):
            fetch(site.url(page), timeout=0.3)
        assert time.monotonic() - began < 9

    def test_a_pause_may_not_last(self, site):
        began = time.monotonic()
        with pytest.raises(TookTooLong):
            fetch(site.url("silent"), timeout=60, idle=0.2)
        assert time.monotonic() - began < 9

    def test_a_closed_port_is_unreachable(self, settings):
        settings.OUTBOUND_ALLOW = ["127.0.0.1"]
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(Unreachable):
            fetch(f"http://127.0.0.1:{port}/")

    def test_a_server_that_does_not_speak_http_is_unreachable(self, settings):
        settings.OUTBOUND_ALLOW = ["127.0.0.1"]
        with socket.create_server(("127.0.0.1", 0)) as server:

            def greet() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"220 mail.example ESMTP\r\n")
                    connection.recv(1000)

            thread = threading.Thread(target=greet)
            thread.start()
            with pytest.raises(Unreachable):
                fetch(f"http://127.0.0.1:{server.getsockname()[1]}/")
            thread.join()

    def test_it_uses_no_proxy_of_the_environment(self, site, monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert fetch(site.url("hello")) == b"hello"


class TestTLS:
    @pytest.fixture
    def secure(self, tmp_path, settings, monkeypatch) -> Iterator[Site]:
        """A site whose certificate is for right.example, from an authority that we trust."""
        settings.OUTBOUND_ALLOW = ["127.0.0.1"]
        subject = ["-subj", "/CN=right.example", "-addext", "subjectAltName=DNS:right.example"]
        files = ["-keyout", "key.pem", "-out", "cert.pem", "-days", "1"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *subject]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        monkeypatch.setattr(client, "_trust", lambda: trust)
        site = Site(tls=server)
        yield site
        site.stop()

    def test_the_certificate_is_checked_for_the_name_not_the_address(self, secure, dns):
        dns["right.example"] = [["127.0.0.1"]]
        assert fetch(f"https://right.example:{secure.port}/hello") == b"hello"

    def test_a_certificate_for_another_name_is_refused(self, secure, dns):
        dns["wrong.example"] = [["127.0.0.1"]]
        with pytest.raises(Unreachable, match="certificate"):
            fetch(f"https://wrong.example:{secure.port}/hello")
        assert secure.requests == []

    def test_a_handshake_that_never_ends_is_given_up(self, settings):
        settings.OUTBOUND_ALLOW = ["127.0.0.1"]
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TookTooLong):
            fetch(f"https://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.3)


class TestPost:
    def test_it_sends_the_body_and_gives_the_answer(self, site):
        posted = client.post(site.url("hello"), b"{}", {"Content-Type": "application/json"}, 5)
        assert (posted.status, posted.body) == (200, b"hello")
        assert site.requests[0][1]["Content-Type"] == "application/json"

    def test_it_follows_no_redirect(self, site):
        site.redirect_to = "/hello"
        assert client.post(site.url("away"), b"{}", timeout=5).status == 302
        assert len(site.requests) == 1

    def test_it_keeps_the_beginning_of_a_long_answer_only(self, site):
        assert len(client.post(site.url("endless"), b"", timeout=5).body) == client.MAX_ANSWER

    def test_it_refuses_an_address_inside(self, site, settings):
        settings.OUTBOUND_ALLOW = []
        with pytest.raises(Refused):
            client.post(site.url("hello"), b"", timeout=5)

    def test_its_time_is_up_even_if_bytes_drip(self, site):
        with pytest.raises(TookTooLong):
            client.post(site.url("dripping_headers"), b"", timeout=0.3)


@pytest.mark.parametrize(
    "host, asked_for",
    [
        ("straße.de", "xn--strae-oqa.de"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("例え.jp", "xn--r8jz45g.jp"),
    ],
)
def test_hosts_beyond_ascii_are_named_as_browsers_name_them(host, asked_for):
    assert client.parse(f"https://{host}/x").host == asked_for
