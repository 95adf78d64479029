"""Ask the daemon of this container whether it works; exit 1 if not. The HEALTHCHECK of the image.

python alive.py [CONFIG]     default: /etc/healthd/config.toml
"""

import os
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path


def url(config: Path) -> str:
    """Return where /healthz answers: as healthd itself, by the environment, then the file, then the defaults."""
    try:
        server = tomllib.loads(config.read_text(encoding="utf-8")).get("server", {})
    except (OSError, ValueError):
        server = {}
    host = os.environ.get("HEALTHD_SERVER__HOST") or str(server.get("host", "127.0.0.1"))
    port = os.environ.get("HEALTHD_SERVER__PORT") or server.get("port", 8080)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/healthz" if ":" in host else f"http://{host}:{port}/healthz"


def main() -> None:
    """Ask once."""
    try:
        config = Path(sys.argv[1] if len(sys.argv) > 1 else "/etc/healthd/config.toml")
        straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        straight.open(url(config), timeout=4).close()
    except (OSError, urllib.error.URLError) as exc:
        sys.exit(f"no answer: {exc}")


if __name__ == "__main__":
    main()
