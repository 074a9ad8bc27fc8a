"""Firefox, operated over WebDriver BiDi, with the interface of Selenium's browsers. Read `Firefox` first.

Firefox speaks BiDi itself. Selenium needs geckodriver, which Debian does not have and which takes minutes to build
(decision 0090). This module contains only the calls that the tests use. It does not start Firefox.
"""

import json
from itertools import count

import pytest

exceptions = pytest.importorskip("selenium.common.exceptions", reason="selenium is not installed: the web page is not tested")
websocket = pytest.importorskip("websocket", reason="websocket-client is not installed: Firefox is not tested")

SYNC = """async (...raw) => {
  const given = raw.map((one) => typeof one === "string" ? JSON.parse(one) : one);
  return JSON.stringify((function () { %s }).apply(null, given)) ?? "null";
}"""
ASYNC = """async (...raw) => {
  const given = raw.map((one) => typeof one === "string" ? JSON.parse(one) : one);
  return JSON.stringify(await new Promise((done) => (function () { %s }).apply(null, [...given, done]))) ?? "null";
}"""
"""Elements are passed as such, everything else as JSON. The text of the script is part of the function, because the policy of the page forbids `eval`."""

SHOWN = """
  const box = arguments[0].getBoundingClientRect();
  return arguments[0].checkVisibility({ visibilityProperty: true }) && box.width > 0 && box.height > 0;
"""
SELECT = """
  const [option] = arguments;
  if (option.localName !== "option") return false;
  const list = option.closest("select");
  list.focus();
  if (!option.selected) {
    option.selected = true;
    for (const kind of ["input", "change"]) list.dispatchEvent(new Event(kind, { bubbles: true }));
  }
  return true;
"""
UNCOVERED = """
  const [element] = arguments;
  element.scrollIntoView({ block: "nearest", inline: "nearest" });
  const box = [...element.getClientRects()].find(({ width, height }) => width > 0 && height > 0);
  if (!box) return "nothing of it is shown";
  const top = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
  return element.contains(top) || top?.contains(element) && top.localName === "label" ? "" : `${top?.outerHTML.slice(0, 120)} covers it`;
"""
CLEAR = """
  const [field] = arguments;
  field.focus();
  if (field.value === "") return;
  field.value = "";
  for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
"""
FOCUS = """
  const [field] = arguments;
  if (document.activeElement !== field) {
    field.focus();
    if (/^(input|textarea)$/.test(field.localName)) {
      try { field.setSelectionRange(field.value.length, field.value.length); } catch { /* The type has no selection. */ }
    }
  }
"""
READ = """
  const [element, name] = arguments;
  if (name === "value" || name === "href") return element[name] ?? element.getAttribute(name);
  return typeof element[name] === "boolean" ? element[name] ? "true" : null : element.getAttribute(name);
"""
MODIFIERS = "\ue008\ue009\ue00a\ue03d"


class Element:
    """An element of the page."""

    def __init__(self, browser: "Firefox", reference: str):
        self.browser, self.reference = browser, reference

    def read(self, script: str, *arguments):
        return self.browser.run(SYNC, script, [self, *arguments])

    def is_displayed(self) -> bool:
        return self.read(SHOWN)

    def is_enabled(self) -> bool:
        return not self.read("return arguments[0].matches(':disabled')")

    def is_selected(self) -> bool:
        return self.read("return Boolean(arguments[0].checked || arguments[0].selected)")

    def get_attribute(self, name: str) -> str | None:
        return self.read(READ, name)

    @property
    def text(self) -> str:
        return self.read("return arguments[0].innerText.trim()")

    def find_element(self, _by: str, selector: str) -> "Element":
        found = self.find_elements(_by, selector)
        if not found:
            raise exceptions.NoSuchElementException(selector)
        return found[0]

    def find_elements(self, _by: str, selector: str) -> list["Element"]:
        return self.browser.locate(selector, self)

    def click(self) -> None:
        if self.read(SELECT):
            return
        if reason := self.read(UNCOVERED):
            raise exceptions.ElementClickInterceptedException(reason)
        here = {"type": "element", "element": {"sharedId": self.reference}}
        steps = [{"type": "pointerMove", "x": 0, "y": 0, "origin": here}, {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self.browser.act({"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": steps})

    def clear(self) -> None:
        self.read(CLEAR)

    def send_keys(self, *texts: str) -> None:
        self.read(FOCUS)
        held, steps = [], []
        for key in "".join(texts):
            key = "\ue006" if key == "\n" else key
            steps.append({"type": "keyDown", "value": key})
            if key in MODIFIERS:
                held.append(key)
            else:
                steps.append({"type": "keyUp", "value": key})
        steps += [{"type": "keyUp", "value": key} for key in reversed(held)]
        self.browser.act({"type": "key", "id": "keyboard", "actions": steps})


class Firefox:
    """A tab of a running Firefox. `address` is the WebSocket that Firefox prints when it starts."""

    name = "firefox"

    def __init__(self, address: str, timeout: float, witness: str):
        self.socket = websocket.create_connection(f"{address}/session", suppress_origin=True, timeout=timeout)
        self.numbers = count(1)
        self.messages: list[dict] = []
        self.call("session.new", capabilities={})
        # In the first tab, the address bar has the focus, and keys do not activate the buttons of a page.
        self.context = self.call("browsingContext.create", type="tab")["context"]
        self.call("session.subscribe", events=["log.entryAdded"])
        self.call("script.addPreloadScript", functionDeclaration=f"() => {{ {witness} }}")

    def call(self, method: str, **parameters):
        """Sends a command and returns its result. Events that arrive in between are kept."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == number:
                break
            if answer.get("method") == "log.entryAdded":
                self.messages.append(answer["params"])
        if answer["type"] == "success":
            return answer["result"]
        problem = f"{method}: {answer['error']}: {answer['message']}"
        if answer["error"] in ("no such node", "no such element", "stale element reference"):
            raise exceptions.StaleElementReferenceException(problem)
        raise exceptions.WebDriverException(problem)

    def run(self, wrapper: str, script: str, arguments: list):
        given = [{"sharedId": one.reference} if isinstance(one, Element) else {"type": "string", "value": json.dumps(one)} for one in arguments]
        function = wrapper.replace("%s", f"\n{script}\n")
        answer = self.call("script.callFunction", functionDeclaration=function, target={"context": self.context}, awaitPromise=True, arguments=given)
        if answer["type"] == "exception":
            raise exceptions.JavascriptException(answer["exceptionDetails"]["text"])
        return json.loads(answer["result"]["value"])

    def execute_script(self, script: str, *arguments):
        return self.run(SYNC, script, list(arguments))

    def execute_async_script(self, script: str, *arguments):
        return self.run(ASYNC, script, list(arguments))

    def locate(self, selector: str, within: Element | None = None) -> list[Element]:
        scope = {"startNodes": [{"sharedId": within.reference}]} if within else {}
        nodes = self.call("browsingContext.locateNodes", context=self.context, locator={"type": "css", "value": selector}, **scope)["nodes"]
        return [Element(self, node["sharedId"]) for node in nodes]

    def find_elements(self, _by: str, selector: str) -> list[Element]:
        return self.locate(selector)

    def find_element(self, _by: str, selector: str) -> Element:
        found = self.locate(selector)
        if not found:
            raise exceptions.NoSuchElementException(selector)
        return found[0]

    def act(self, source: dict) -> None:
        self.call("input.performActions", context=self.context, actions=[source])

    def get(self, url: str) -> None:
        self.call("browsingContext.navigate", context=self.context, url=url, wait="complete")

    def refresh(self) -> None:
        self.call("browsingContext.reload", context=self.context, wait="complete")

    @property
    def current_url(self) -> str:
        return self.execute_script("return location.href")

    @property
    def switch_to(self) -> "Firefox":
        return self

    @property
    def active_element(self) -> Element:
        return (self.locate(":focus") or self.locate("body"))[0]

    def get_cookies(self) -> list[dict]:
        cookies = self.call("storage.getCookies", partition={"type": "context", "context": self.context})["cookies"]
        return [{"name": one["name"], "value": one["value"]["value"], "httpOnly": one["httpOnly"], "sameSite": one["sameSite"].capitalize()} for one in cookies]

    def delete_all_cookies(self) -> None:
        self.call("storage.deleteCookies", partition={"type": "context", "context": self.context})

    def set_window_size(self, width: int, height: int) -> None:
        self.call("browsingContext.setViewport", context=self.context, viewport={"width": width, "height": height})

    def get_log(self, _kind: str) -> list[dict]:
        """Returns the errors of the console since the last call."""
        self.call("session.status")
        entries, self.messages = self.messages, []
        return [{"level": "SEVERE", "message": str(one["text"])} for one in entries if one["level"] == "error"]

    def quit(self) -> None:
        self.socket.close()
