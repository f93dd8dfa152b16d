"""What a block page says, in the languages we speak, and which of them a browser asks for. Pure.

`Accept-Language` is a stranger's text (RFC 9110, 12.5.4): what cannot be read in
it asks for nothing, and nobody can make us read more than a bounded part of it.
"""

import re
from dataclasses import dataclass

# Browsers send a handful of languages; a person may choose some more.
_LONGEST = 1024
_MOST = 32
_RANGE = re.compile(
    r"\s*([A-Za-z]{1,8})(?:-[A-Za-z0-9]{1,8}){0,8}\s*(?:;\s*[qQ]\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The texts of one language."""

    leads: dict[int, tuple[str, str]]  # by status: title, and what happened
    address: str
    reason: str
    event: str
    mistake: str


ENGLISH = "en"
LANGUAGES = {
    "en": Words(
        leads={
            400: ("Not understood", "Webguard could not understand this request."),
            403: ("Blocked by Webguard", "Webguard did not deliver this content."),
            413: ("Too large", "This is larger than Webguard may pass on without looking at it."),
            502: (
                "No trustworthy answer",
                "The server did not give an answer that Webguard can pass on.",
            ),
            504: ("No answer in time", "The server took too long to answer."),
        },
        address="Address",
        reason="Reason",
        event="Event",
        mistake="If you think this is a mistake, give the event's number to the administrator of"
        " this machine.",
    ),
    "es": Words(
        leads={
            400: ("No se entiende", "Webguard no pudo entender esta petición."),
            403: ("Bloqueado por Webguard", "Webguard no entregó este contenido."),
            413: (
                "Demasiado grande",
                "Es más grande de lo que Webguard puede dejar pasar sin examinarlo.",
            ),
            502: (
                "Sin respuesta fiable",
                "El servidor no dio una respuesta que Webguard pueda entregar.",
            ),
            504: ("Sin respuesta a tiempo", "El servidor tardó demasiado en responder."),
        },
        address="Dirección",
        reason="Motivo",
        event="Suceso",
        mistake="Si cree que es un error, comunique el número del suceso al administrador de este"
        " equipo.",
    ),
    "uk": Words(
        leads={
            400: ("Запит незрозумілий", "Webguard не зміг зрозуміти цей запит."),
            403: ("Заблоковано Webguard", "Webguard не передав цей вміст."),
            413: (
                "Завеликий обсяг",
                "Це більше, ніж Webguard може пропустити без перевірки.",
            ),
            502: (
                "Немає надійної відповіді",
                "Сервер не дав відповіді, яку Webguard може передати.",
            ),
            504: ("Немає вчасної відповіді", "Сервер відповідав надто довго."),
        },
        address="Адреса",
        reason="Причина",
        event="Подія",
        mistake="Якщо ви вважаєте, що це помилка, повідомте номер події адміністратору цього"
        " комп'ютера.",
    ),
}


def language(accepted: str) -> str:
    """Return the language of ours that this `Accept-Language` likes best; English if none."""
    best, chosen = 0.0, ENGLISH
    # What a cut leaves of the last range could be another language.
    whole = accepted if len(accepted) <= _LONGEST else accepted[:_LONGEST].rpartition(",")[0]
    for each in whole.split(",")[:_MOST]:
        found = _RANGE.fullmatch(each)
        if not found or found[1].lower() not in LANGUAGES:
            continue
        quality = min(float(found[2]), 1.0) if found[2] else 1.0
        if quality > best:  # of equals the first
            best, chosen = quality, found[1].lower()
    return chosen
