#!/usr/bin/env python3
"""Shares one cache between huggingface_hub and lora, both ways, over a Hub of its own on loopback.

    pip install huggingface_hub
    tests/tools/compare_huggingface_hub.py build/release/lora

1. snapshot_download fills a cache; lora reads it with HF_HUB_OFFLINE=1.
2. lora fills a cache; hf_hub_download(local_files_only=True), try_to_load_from_cache and scan_cache_dir accept it.
3. Both caches hold the same names, links and contents.
"""
import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
COMMIT = hashlib.sha1(b"commit").hexdigest()
FILES = {
    ("models", "org/tiny"): {name: (ROOT / "tests/data/tiny-hf" / name).read_bytes() for name in NAMES},
    ("datasets", "org/rows"): {"data/train.jsonl": b'{"instruction": "Say yes.", "output": "yes"}\n'},
}
LFS_BYTES = 4096


def etag(content):
    if len(content) > LFS_BYTES:
        return hashlib.sha256(content).hexdigest()
    return git_blob_id(content)


def git_blob_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sibling(path, content):
    entry = {"rfilename": path, "size": len(content), "blobId": git_blob_id(content)}
    if len(content) > LFS_BYTES:
        entry["lfs"] = {"sha256": etag(content), "size": len(content), "pointerSize": 130}
    return entry


class Hub(http.server.BaseHTTPRequestHandler):
    def answer(self, code, headers=(), body=b""):
        self.send_response(code)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def list_files(self, rest):
        if rest.count("/") < 3:
            return self.answer(404)
        kind, organisation, name, action = rest.split("/", 3)
        files = FILES.get((kind, f"{organisation}/{name}"))
        if files is None:
            return self.answer(404, [("X-Error-Code", "RepoNotFound")])
        if action.startswith("tree/"):
            entries = []
            for path, content in files.items():
                entry = {"type": "file", "path": path, "size": len(content), "oid": git_blob_id(content)}
                if len(content) > LFS_BYTES:
                    entry["lfs"] = {"oid": etag(content), "size": len(content), "pointerSize": 130}
                entries.append(entry)
            return self.answer(200, [("Content-Type", "application/json")], json.dumps(entries).encode())
        body = {"id": f"{organisation}/{name}", "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "likes": 0,
                "siblings": [sibling(path, content) for path, content in files.items()]}
        return self.answer(200, [("Content-Type", "application/json")], json.dumps(body).encode())

    def send_file(self, rest):
        kind = "models"
        if rest.startswith("datasets/"):
            kind, rest = "datasets", rest[len("datasets/"):]
        organisation, name, _, _, path = rest.split("/", 4)
        content = FILES.get((kind, f"{organisation}/{name}"), {}).get(path)
        if content is None:
            return self.answer(404, [("X-Error-Code", "EntryNotFound"), ("X-Repo-Commit", COMMIT)])
        headers = [("X-Repo-Commit", COMMIT)]
        if len(content) > LFS_BYTES:
            headers += [("X-Linked-Etag", f'"{etag(content)}"'), ("X-Linked-Size", str(len(content))),
                        ("Location", f"http://localhost:{self.server.server_port}/cdn/{etag(content)}")]  # another host, as the real one's
            return self.answer(302, headers)
        return self.answer(200, headers + [("ETag", f'"{etag(content)}"')], content)

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        if path.startswith("/api/"):
            return self.list_files(path[len("/api/"):])
        if path.startswith("/cdn/"):
            for files in FILES.values():
                for content in files.values():
                    if etag(content) == path[len("/cdn/"):]:
                        return self.answer(200, [("ETag", '"of-the-cdn"')], content)
        return self.send_file(path.lstrip("/"))

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


def tree(folder):
    """Every file and link below the repositories of a cache; locks and marks of absent files left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not relative.parts[0].startswith(("models--", "datasets--")) or ".no_exist" in relative.parts:
            continue
        if path.is_symlink():
            found[str(relative)] = "-> " + os.readlink(path)
        elif path.suffix == ".json" and path.parent.name == "trees":
            found[str(relative)] = json.loads(path.read_text())
        elif path.is_file():
            found[str(relative)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def main():
    program = pathlib.Path(sys.argv[1]).resolve()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ.update(HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HUB_DISABLE_XET="1", no_proxy="127.0.0.1,localhost")
    with tempfile.TemporaryDirectory() as work:
        theirs, ours = pathlib.Path(work, "theirs/hub"), pathlib.Path(work, "ours/hub")
        os.environ["HF_HOME"] = str(theirs.parent)
        import huggingface_hub as hub

        hub.snapshot_download("org/tiny", cache_dir=theirs)
        hub.snapshot_download("org/rows", repo_type="dataset", cache_dir=theirs)

        recipe = pathlib.Path(work, "recipe.yml")
        recipe.write_text("base_model: org/tiny\nadapter: lora\nlora_r: 4\nlora_alpha: 8\nlora_target_linear: true\nlearning_rate: 1e-3\n"
                          "micro_batch_size: 1\ngradient_accumulation_steps: 1\nmax_steps: 1\nsequence_len: 128\n"
                          "optimizer: adamw_torch\nbf16: false\n"
                          f"output_dir: {work}/out\ndatasets:\n  - path: org/rows\n    type: alpaca\n")
        for home, more in ((theirs, {"HF_HUB_OFFLINE": "1"}), (ours, {})):
            environment = dict(os.environ, HF_HUB_CACHE=str(home), **more)
            subprocess.run([program, "train", recipe, "--quiet"], check=True, env=environment)
        print("lora trains from the cache of huggingface_hub", hub.__version__)

        server.shutdown()
        for (kind, repository), files in FILES.items():
            for name, content in files.items():
                path = hub.hf_hub_download(repository, name, repo_type=kind[:-1], cache_dir=ours, local_files_only=True)
                assert pathlib.Path(path).read_bytes() == content, name
        absent = hub.try_to_load_from_cache("org/tiny", "chat_template.jinja", cache_dir=ours)
        assert absent is hub._CACHED_NO_EXIST, absent
        assert pathlib.Path(hub.snapshot_download("org/tiny", cache_dir=ours, local_files_only=True)).name == COMMIT
        report = hub.scan_cache_dir(ours)
        assert not report.warnings, report.warnings
        assert {repository.repo_id for repository in report.repos} == {"org/tiny", "org/rows"}
        print("huggingface_hub accepts the cache of lora")
        assert tree(theirs) == tree(ours), (tree(theirs), tree(ours))
        print(f"{len(tree(ours))} files and links are the same in both")


if __name__ == "__main__":
    main()
