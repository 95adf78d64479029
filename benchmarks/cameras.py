"""Real cameras for both sides of a comparison: RTSP over TCP, encoded beforehand, all in one process of their own.

python -m benchmarks.cameras NUMBER CLIP.h264 FPS

Says the URLs in one line. A line with `drop N` on standard input cuts the connections of one, `stop N` kills it,
`start N` has it back on the same port, `stall N` silences it with its connections open, `flow N` lets it go on.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.rtsp_server import RtspServer

FPS = 15


@dataclass(frozen=True, slots=True)
class Cameras:
    """Cameras that run, in another process."""

    urls: list[str]
    process: "subprocess.Popen[str]"

    def tell(self, order: str) -> None:
        """Give an order: `drop N`, `stop N`, `start N`, `stall N`, `flow N`."""
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()


@contextmanager
def cameras(number: int, clip: Path) -> Iterator[Cameras]:
    """Run so many cameras for as long as the block lasts."""
    command = [sys.executable, "-m", "benchmarks.cameras", str(number), str(clip), str(FPS)]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Cameras(process.stdout.readline().split(), process)
        finally:
            process.kill()


def main() -> None:
    """Serve until standard input ends."""
    number, clip, fps = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    servers = [RtspServer(clip, fps=fps).start() for _ in range(number)]
    print(*(server.url for server in servers), flush=True)
    for line in sys.stdin:
        what, which = line.split()
        server = servers[int(which)]
        if what == "drop":
            server.drop_clients()
        elif what == "stop":
            server.stop()
        elif what == "start":
            servers[int(which)] = RtspServer(clip, fps=fps, port=server.port).start()
        elif what in {"stall", "flow"}:
            server.stall(stalled=what == "stall")


if __name__ == "__main__":
    main()
