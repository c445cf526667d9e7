"""Google Drive: the confirmation page before a large file, and error messages about its quota."""

from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin

from .datasets import GOOGLE_DRIVE


def is_on_drive(url: str) -> bool:
    return url.startswith(GOOGLE_DRIVE)


def confirmed_address(url: str, page: str) -> tuple[str | None, str]:
    """The address behind the confirmation page of a large file, whose HTML is `page`, or None; and its message."""
    form = _Form()
    form.feed(page)
    if form.action is None:
        return None, " ".join(form.message.split())
    action = urljoin(url, form.action)
    return f"{action}{'&' if '?' in action else '?'}{urlencode(form.fields)}", ""


def quota_message(url: str, said: str) -> str:
    return (
        f"Google Drive sent a page{said}: the file's download quota is used up, or it is no longer shared; wait a day, "
        f"or open {url} in a browser where you are signed in"
    )


class _Form(HTMLParser):
    """The address of the page's form, its hidden fields, and the page's error message."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: list[tuple[str, str]] = []
        self.message = ""
        self._is_inside = self._is_message = False

    def handle_starttag(self, tag, attributes):
        values = {name: value or "" for name, value in attributes}
        if tag == "form":
            self._is_inside = values.get("id") == "download-form"
            if self._is_inside:
                self.action = values.get("action", "")
        if self._is_inside and tag == "input" and values.get("type") == "hidden" and "name" in values:
            self.fields.append((values["name"], values.get("value", "")))
        self._is_message = tag == "title" or "uc-error" in values.get("class", "")

    def handle_endtag(self, tag):
        self._is_message = False
        self._is_inside = self._is_inside and tag != "form"

    def handle_data(self, text):
        if self._is_message:
            self.message = f"{self.message} {text}"[:200]
