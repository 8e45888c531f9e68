"""`graftage serve`: arguments become an application behind a socket. What is wrong is said before anything listens."""

import argparse
import ipaddress
import os
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from graftage.commands.models import loaded_by
from graftage.commands.saying import Commands, add_command
from graftage.errors import OptionError
from graftage.flags import add_flags

if TYPE_CHECKING:
    from graftage.serve.guard import Rules
    from graftage.serve.predict import Predictor

_KEY = "GRAFTAGE_API_KEY"
_LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SHORTEST_KEY = 16
_NEEDED = ("fastapi", "uvicorn", "httptools", "python_multipart")
_TEXT = """\
Answers over HTTP with one model or several, and shows a page for the browser.

  POST /v1/predict     pictures (multipart/form-data, or one as the body) → a row each, as graftage predict
  POST /v1/explain     a picture → heat map and the training pictures most like it
  GET  /v1/model       classes, card, scores with intervals     /metrics /healthz /readyz /openapi.json

Requests name their model by ?model=NAME; without, the first answers. It listens on this machine alone unless --host
says otherwise; then a key is asked for, from --api-key or, better, the environment variable GRAFTAGE_API_KEY. It speaks
plain HTTP: for other machines put a server with TLS in front.
"""
_END = """\
examples:
  graftage serve runs/birds/model.safetensors
  graftage serve birds=runs/birds/model.safetensors ants=ants.safetensors --port 9000
  GRAFTAGE_API_KEY=… graftage serve model.safetensors --host 0.0.0.0
  curl -F picture=@a.jpg http://127.0.0.1:8000/v1/predict
"""


def add_serve(commands: Commands) -> None:
    """Adds the command to the command line."""
    parser = add_command(commands, "serve", "model → HTTP server with a page for the browser", text=_TEXT, end=_END)
    parser.add_argument(
        "models", nargs="+", metavar="[NAME=]MODEL", help="a model.safetensors or a run's folder, and its name"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1, this machine alone")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: 8000; 0 takes a free one")
    parser.add_argument("--api-key", metavar="KEY", help=f"asked of every request (default: ${_KEY})")
    parser.add_argument("--no-auth", action="store_true", help="let other machines in without a key")
    parser.add_argument("--queue", type=int, default=256, metavar="N", help="pictures that may wait (default: 256)")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="of a request (default: 30)")
    parser.add_argument("--max-pictures", type=int, default=64, metavar="N", help="of a request (default: 64)")
    parser.add_argument("--max-bytes", type=int, default=64 * 2**20, metavar="N", help="of a request (default: 64 MiB)")
    parser.add_argument("--max-pixels", type=int, default=64_000_000, metavar="N", help="of a picture (default: 64e6)")
    parser.add_argument("--no-thumbnails", action="store_true", help="name similar training pictures, show none")
    parser.add_argument("-j", "--workers", type=int, default=0, metavar="N", help="threads (default: cores and one)")
    add_flags(parser, ("device", "precision", "repair"))
    parser.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise OptionError(f"serve needs {', '.join(missing)}: run `pip install 'graftage[serve]'`")
    from graftage.serve.running import listen, log_line, logged, run
    from graftage.serve.server import create_app
    from graftage.serve.uploads import RequestLimits

    rules = rules_for(
        arguments.host, arguments.api_key, os.environ.get(_KEY), no_auth=arguments.no_auth, seconds=arguments.timeout
    )
    limits = RequestLimits(
        max_bytes=arguments.max_bytes,
        max_picture_bytes=min(arguments.max_bytes, RequestLimits.max_picture_bytes),
        max_pixels=arguments.max_pixels,
        max_pictures=arguments.max_pictures,
        seconds=arguments.timeout,
        max_held=max(RequestLimits.max_held, 4 * arguments.max_bytes),
    )
    if arguments.workers < 0:
        raise OptionError(f"workers must be 0 or more, got {arguments.workers}")
    named = names_of(arguments.models)
    with listen(arguments.host, arguments.port) as bound, logged():
        models = {name: _opened(arguments, path) for name, path in named.items()}
        app = create_app(
            models,
            limits=limits,
            queue=arguments.queue,
            workers=arguments.workers,
            rules=rules,
            log=log_line,
            thumbnails=not arguments.no_thumbnails,
        )
        address = _address(arguments.host, bound.getsockname()[1])
        run(
            app,
            bound,
            seconds=arguments.timeout,
            say=lambda: print(f"serving {', '.join(models)} on {address}", flush=True),
        )
    return 0


def _opened(arguments: argparse.Namespace, path: Path) -> "Predictor":
    loaded = loaded_by(arguments, path)
    for notice in loaded.forward.notices:
        print(f"{path}: {notice}", file=sys.stderr)
    return loaded


def rules_for(host: str, given: str | None, kept: str | None, *, no_auth: bool, seconds: float) -> "Rules":
    """Who is let in.

    Args:
        host: listened on.
        given: the key of the command line.
        kept: that of the environment.
        no_auth: other machines come in without one.
        seconds: of a request.

    Raises:
        OptionError: no key although other machines come in, or one that is easily guessed.
    """
    from graftage.serve.guard import Rules

    key = given if given is not None else kept or ""
    if (given is not None or key) and not re.fullmatch(rf"[!-~]{{{_SHORTEST_KEY},}}", key):
        raise OptionError(
            f"the API key must have {_SHORTEST_KEY} or more ASCII characters and no space; "
            "`openssl rand -hex 24` makes one"
        )
    local = _is_local(host)
    if not local and not key and not no_auth:
        raise OptionError(f"host {host} lets other machines in: set {_KEY} (or --api-key), or say --no-auth")
    # a page of another site could reach a keyless server on this machine under a name of its own
    hosts = _LOCAL if local and not key else frozenset()
    return Rules("" if no_auth else key, hosts, seconds=2 * seconds + 10)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names_of(given: Sequence[str]) -> dict[str, Path]:
    """NAME=MODEL or MODEL → the files by name; a run, or its model.safetensors, is named after the folder.

    Raises:
        OptionError: two of the same name, or a name that no request could hold.
    """
    named: dict[str, Path] = {}
    for text in given:
        name, equals, rest = text.partition("=")
        path = Path(rest) if equals and not Path(text).exists() else Path(text)
        if path == Path(text):
            whole = path.resolve()
            stem = whole.name if path.is_dir() else whole.parent.name if path.stem == "model" else path.stem
            name = re.sub(r"[^\w.-]", "-", stem) or "model"
        if not re.fullmatch(r"[\w.-]{1,64}", name):
            raise OptionError(f"{text}: a model's name holds 1 to 64 letters, digits, dots, dashes and underscores")
        if name in named:
            raise OptionError(f"{path} and {named[name]} are both named {name!r}: say NAME={path}")
        named[name] = path
    return named


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
