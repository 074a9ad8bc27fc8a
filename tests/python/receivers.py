"""Receivers of alerts with certificates of a private authority: a webhook, and the mail server aiosmtpd. Read `Authority` first."""

import datetime
import ssl
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """A certificate authority of an organization."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name, self.key = folder, name, ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._sign(name, self.key, [], issuer_key=self.key, is_authority=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(self, subject: str, key, names: list, issuer_key, is_authority: bool) -> x509.Certificate:
        name = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(issuer_key, hashes.SHA256())

    def context(self, host: str = "127.0.0.1") -> ssl.SSLContext:
        """TLS of a server at an address, with a certificate of this authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternative = x509.IPAddress(ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
        signed = self._sign("receiver", key, [alternative], issuer_key=self.key, is_authority=False)
        file = self.folder / f"{self.name}-{host}.pem"
        plain = serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        file.write_bytes(pem + signed.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


class Webhook:
    """A receiver that records requests and answers each with the same status, and a location if there is one."""

    def __init__(self, tls: ssl.SSLContext | None = None, status: int = 204, location: str | None = None):
        self.received: list[tuple[dict, bytes]] = []
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                webhook.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(status)
                if location:
                    self.send_header("location", location)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                """A refused certificate is what some tests want."""

        self.server = Server(("127.0.0.1", 0), Handler)
        if tls:
            # The handshake runs in the thread of the connection.
            self.server.socket = tls.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server.server_port}/alerts"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


@dataclass
class Mail:
    """A received message, with what the server knew of the connection."""

    content: str
    recipients: list[str]
    encrypted: bool
    user: str | None


class MailServer:
    """aiosmtpd with one account, which it demands where TLS is on. `starttls` and `tls` are the two ways to encrypt."""

    def __init__(self, starttls: ssl.SSLContext | None = None, tls: ssl.SSLContext | None = None):
        self.mails: list[Mail] = []
        self.commands: list[str] = []
        mail_server = self

        class Handler:
            async def handle_EHLO(self, server, session, envelope, hostname, responses):
                mail_server.commands.append("EHLO")
                session.host_name = hostname
                return responses

            async def handle_DATA(self, server, session, envelope):
                user = session.auth_data
                mail = Mail(envelope.content.decode(), envelope.rcpt_tos, tls is not None or session.ssl is not None, user)
                mail_server.mails.append(mail)
                return "250 taken"

        def authenticate(server, session, envelope, mechanism, data):
            mail_server.commands.append(f"AUTH {data.login.decode()}")
            accepted = (data.login, data.password) == (b"fleet", b"pass word")
            return AuthResult(success=accepted, auth_data=data.login.decode() if accepted else None)

        class Listener(Controller):
            def factory(self):
                return SMTP(
                    Handler(),
                    tls_context=starttls,
                    require_starttls=starttls is not None,
                    authenticator=authenticate,
                    auth_required=starttls is not None or tls is not None,
                    # Implicit TLS is under SMTP, which therefore does not know of it.
                    auth_require_tls=tls is None,
                )

        self.controller = Listener(Handler(), hostname="127.0.0.1", port=0, ssl_context=tls)

    def __enter__(self):
        # `start` would greet the server in clear text at port 0.
        controller = self.controller
        controller.loop.run_until_complete(self._listen())
        self.thread = threading.Thread(target=controller.loop.run_forever, daemon=True)
        self.thread.start()
        return self

    async def _listen(self):
        controller = self.controller
        self.listening = await controller.loop.create_server(controller.factory, "127.0.0.1", 0, ssl=controller.ssl_context)
        self.port = self.listening.sockets[0].getsockname()[1]

    def __exit__(self, *_):
        loop = self.controller.loop
        loop.call_soon_threadsafe(self.listening.close)
        loop.call_soon_threadsafe(loop.stop)
        self.thread.join(30)
