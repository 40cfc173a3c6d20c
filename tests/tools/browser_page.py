#!/usr/bin/env python3
"""The page of `lora serve` in a real browser: two models side by side, streaming, stopping, regenerating, errors, keys, and that nothing
that is written becomes HTML.

    pip install playwright && playwright install chromium    (or a chromium of the system)
    tests/tools/browser_page.py build/release/lora [--adapter PATH] [--screenshots FOLDER]

Prints SKIPPED where there is no browser."""
import argparse
import os
import shutil
import sys
import tempfile
import time

try:
    from playwright.sync_api import sync_playwright
except ImportError:
    print("SKIPPED: playwright is not installed")
    sys.exit(0)

from served import Server

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."


def column(page, index):
    return page.locator("section").nth(index)


def send(page, text):
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def until(page, expression, seconds=30):
    """Polls: the page's policy lets no other function of the browser's evaluate text."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        if time.monotonic() > end:
            raise AssertionError("never true: " + expression)
        time.sleep(0.02)


def wait_idle(page):
    until(page, "document.getElementById('stop').disabled")


def set_field(page, label, value):
    if not page.locator("details").evaluate("d => d.open"):
        page.get_by_text("Settings").click()
    page.get_by_label(label, exact=False).first.fill(value)


def check_answers(page, requests):
    set_field(page, "Temperature", "0")
    send(page, QUESTION)
    until(page, "document.querySelectorAll('.turn.assistant .small').length === 2")
    wait_idle(page)
    assert column(page, 0).locator(".turn.assistant p").inner_text() == ANSWER
    assert column(page, 1).locator(".turn.user p").inner_text() == QUESTION
    assert "tokens" in column(page, 0).locator(".figures").inner_text()
    assert "first after" in column(page, 1).locator(".figures").inner_text()
    bodies = [r.post_data_json for r in requests if r.method == "POST"]
    assert len(bodies) == 2 and bodies[0]["seed"] == bodies[1]["seed"]
    assert bodies[0]["messages"] == bodies[1]["messages"] and bodies[0]["model"] == "tiny" and bodies[1]["model"] == "second"


def check_regenerate(page, requests):
    before = len(requests)
    page.get_by_role("button", name="Regenerate").click()
    until(page, "document.querySelectorAll('.turn.assistant .small').length === 2")
    wait_idle(page)
    assert len(requests) == before + 2
    assert requests[-1].post_data_json["messages"] == [{"role": "user", "content": QUESTION}]
    assert page.locator(".turn.assistant").count() == 2


def check_injection(page):
    page.get_by_role("button", name="New conversation").click()
    set_field(page, "System prompt", "<b>be brief</b>")
    send(page, '<img src=x onerror="document.title=1"><script>document.title=2</script>')
    wait_idle(page)
    assert page.locator(".turn img, .turn script, .turn b").count() == 0
    assert page.locator(".turn.user p").first.inner_text().startswith("<img src=x")
    assert page.title() == "lora"
    set_field(page, "System prompt", "")


def check_stop(page):
    page.get_by_role("button", name="New conversation").click()
    set_field(page, "Temperature", "2")
    set_field(page, "Longest answer", "100000")
    page.get_by_label("Your message").fill("one")
    page.get_by_label("Your message").press("Shift+Enter")
    page.get_by_label("Your message").type("two")
    assert page.get_by_label("Your message").input_value() == "one\ntwo"
    page.evaluate("""() => { window.seen = new MutationObserver(() => {
      if ([...document.querySelectorAll('.turn.assistant p')].some(p => p.textContent)) { stop(); window.stopped = true; }
    }); seen.observe(document.body, {subtree: true, childList: true, characterData: true}); }""")
    page.get_by_role("button", name="Send").click()
    wait_idle(page)
    page.evaluate("window.seen.disconnect()")
    assert page.evaluate("window.stopped") and page.locator(".turn.error").count() == 0


def check_labels(page):
    names = page.evaluate("""() => [...document.querySelectorAll('input, select, textarea, button')].map(
      e => e.getAttribute('aria-label') || (e.labels && e.labels.length && e.labels[0].textContent) || e.textContent)""")
    assert all(name and name.strip() for name in names), names


def watch(page, url):
    """Faults of the page, and its requests for answers."""
    faults, requests = [], []
    page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: faults.append(str(e)))

    def see(request):
        if not request.url.startswith((url, "data:")):
            faults.append("asked " + request.url)
        if request.url.endswith("/v1/chat/completions"):
            requests.append(request)

    page.on("request", see)
    return faults, requests


def shoot(page, folder, name):
    if folder:
        page.screenshot(path=os.path.join(folder, name + ".png"))


def check_page(browser, program, adapter, folder):
    with Server(program, *(["--adapter", f"second={adapter}"] if adapter else [])) as server:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        faults, requests = watch(page, server.url + "/")
        page.goto(server.url + "/")
        until(page, "document.querySelector('select').options.length > 0")
        assert page.locator("select").first.input_value() == "tiny"
        check_labels(page)
        if adapter:
            check_answers(page, requests)
            shoot(page, folder, "light")
            page.emulate_media(color_scheme="dark")
            shoot(page, folder, "dark")
            check_regenerate(page, requests)
        check_injection(page)
        check_stop(page)
        assert not faults, faults
        server.stop()
        send(page, QUESTION)
        page.wait_for_selector(".turn.error")
        page.set_viewport_size({"width": 400, "height": 800})
        shoot(page, folder, "narrow")
        page.close()


def check_key(browser, program):
    with tempfile.NamedTemporaryFile("w") as keys:
        keys.write("secret\n")
        keys.flush()
        with Server(program, "--api-key-file", keys.name) as server:
            page = browser.new_page()
            page.goto(server.url + "/")
            until(page, "document.getElementById('state').textContent.includes('key')")
            set_field(page, "API key", "secret")
            page.get_by_label("API key", exact=False).press("Tab")
            until(page, "document.querySelector('select').options.length === 1")
            assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
            page.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--adapter", help="one that leaves the tiny model's answer as it is, or with its effect times 0 (PATH:0)")
    parser.add_argument("--screenshots")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        except Exception as error:
            print("SKIPPED: no browser starts:", str(error).splitlines()[0])
            return
        check_page(browser, options.program, options.adapter, options.screenshots)
        check_key(browser, options.program)
        browser.close()
    print("the page works" if options.adapter else "the page works with one model; --adapter shows two")


main()
