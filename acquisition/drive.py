"""Google Drive: the page that it puts before a large file, and its refusals in words."""

from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin

from acquisition.datasets import GOOGLE_DRIVE


def is_on_drive(url: str) -> bool:
    return url.startswith(GOOGLE_DRIVE)


def confirmed_address(url: str, page: str) -> tuple[str | None, str]:
    """The address behind the page that asks to confirm the download of a large file.

    Args:
        url: of the page.
        page: its HTML.

    Returns:
        The address, or None where the page asks nothing of the kind; and what the page says instead.
    """
    form = _Form()
    form.feed(page)
    if form.action is None:
        return None, " ".join(form.complaint.split())
    action = urljoin(url, form.action)
    return f"{action}{'&' if '?' in action else '?'}{urlencode(form.fields)}", ""


def quota_message(url: str, said: str) -> str:
    return (
        f"Google Drive answers with a page{said}: the file's download quota is used up for now, or it is not shared "
        f"any more; wait a day, or open {url} in a browser where you are signed in"
    )


class _Form(HTMLParser):
    """Where the page's form leads, its hidden fields, and the page's complaint, if it has one."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: list[tuple[str, str]] = []
        self.complaint = ""
        self._is_inside = self._complains = False

    def handle_starttag(self, tag, attributes):
        values = {name: value or "" for name, value in attributes}
        if tag == "form":
            self._is_inside = values.get("id") == "download-form"
            if self._is_inside:
                self.action = values.get("action", "")
        if self._is_inside and tag == "input" and values.get("type") == "hidden" and "name" in values:
            self.fields.append((values["name"], values.get("value", "")))
        self._complains = tag == "title" or "uc-error" in values.get("class", "")

    def handle_endtag(self, tag):
        self._complains = False
        self._is_inside = self._is_inside and tag != "form"

    def handle_data(self, text):
        if self._complains:
            self.complaint = f"{self.complaint} {text}"[:200]
