"""`lora serve` on the tiny model and a free port, for a `with` of the tests beside this."""
import pathlib
import signal
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Server:
    def __init__(self, program, *arguments):
        self.folder = tempfile.TemporaryDirectory()
        port = pathlib.Path(self.folder.name) / "port"
        self.process = subprocess.Popen([program, "serve", "--quiet", "--model", ROOT / "tests/data/tiny.gguf", "--alias", "tiny",
                                         "--port", "0", "--port-file", port, *arguments])
        for _ in range(600):
            if port.exists() and port.read_text().endswith("\n"):
                self.url = f"http://127.0.0.1:{port.read_text().strip()}"
                try:
                    urllib.request.urlopen(self.url + "/health")
                    return
                except OSError:
                    pass
            time.sleep(0.05)
        raise SystemExit("the server does not start")

    def __enter__(self):
        return self

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.wait() == 0

    def __exit__(self, *_):
        self.stop()
        self.folder.cleanup()
