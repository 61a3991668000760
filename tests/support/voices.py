"""Speech of which every word is known: sentences of our own, spoken by espeak-ng."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.types import Audio

COMMAND = "espeak-ng"

VOICES = {
    "en": ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-us+f3"),
    "de": ("de", "de+f3"),
    "fr": ("fr", "fr+f3"),
    "es": ("es", "es-419+f3"),
    "it": ("it", "it+f3"),
    "pt": ("pt-br", "pt+f3"),
    "nl": ("nl", "nl+f3"),
}
"""Language → espeak-ng's names of its voices; `+f3` makes a woman's of a man's."""

SENTENCES = {
    "en": (
        "Yes, please.",
        "No, thank you.",
        "What time is it?",
        "Two tickets for tonight, please.",
        "Could you say that again, a little slower?",
        "I would like to change my appointment.",
        "The meeting was moved to Thursday afternoon.",
        "Please send the invoice to our new address before Friday.",
        "My order has not arrived yet, and the tracking page shows nothing new.",
        "Turn left after the bridge, then follow the river until you see a small white church.",
        "I bought this phone three weeks ago, but the battery is empty every day before lunch.",
        "We would like to stay for two nights, with breakfast, in a quiet room that looks out on "
        "the garden.",
        "She opened the window, looked down at the crowded street, and decided that it was far too "
        "warm to go for a walk.",
        "When the train finally arrived in the station, most of the passengers had already left, "
        "and the only people on the platform were a tired guard and his dog.",
        "If you call us before noon, we can usually send somebody on the same day, but in the "
        "winter months it often takes a little longer, because the roads in the mountains are "
        "closed.",
    ),
    "de": (
        "Ja, bitte.",
        "Nein, vielen Dank.",
        "Wie spät ist es?",
        "Ich möchte einen Termin für morgen machen.",
        "Der Zug nach Hamburg fährt heute leider nicht.",
        "Können Sie mir bitte sagen, wo der nächste Bahnhof ist?",
        "Wir haben gestern einen langen Spaziergang durch den Wald gemacht und danach Kuchen "
        "gegessen.",
        "Meine Bestellung ist noch nicht angekommen, obwohl ich sie schon vor zwei Wochen bezahlt "
        "habe.",
        "Wenn das Wetter am Wochenende schön bleibt, fahren wir mit den Kindern an den See und "
        "bleiben dort bis zum Abend.",
    ),
    "fr": (
        "Oui, merci.",
        "Non, pas encore.",
        "Quelle heure est-il?",
        "Je voudrais prendre un rendez-vous pour demain.",
        "Le train pour Lyon ne circule pas aujourd'hui.",
        "Pouvez-vous me dire où se trouve la gare la plus proche?",
        "Nous avons fait une longue promenade dans la forêt, puis nous avons mangé un gâteau.",
        "Ma commande n'est pas encore arrivée, et pourtant je l'ai payée il y a deux semaines.",
        "Si le temps reste beau pendant le week-end, nous irons au lac avec les enfants et nous y "
        "resterons toute la journée.",
    ),
    "es": (
        "Sí, por favor.",
        "No, muchas gracias.",
        "¿Qué hora es?",
        "Quiero pedir una cita para mañana.",
        "El tren de Sevilla no sale hoy.",
        "¿Puede decirme dónde está la estación más cercana?",
        "Ayer dimos un largo paseo por el bosque y después comimos un pastel.",
        "Mi pedido todavía no ha llegado, aunque lo pagué hace dos semanas.",
        "Si el fin de semana hace buen tiempo, iremos al lago con los niños y nos quedaremos allí "
        "hasta la noche.",
    ),
    "it": (
        "Sì, per favore.",
        "No, grazie mille.",
        "Che ore sono?",
        "Vorrei prendere un appuntamento per domani.",
        "Il treno per Bologna oggi non parte.",
        "Può dirmi dove si trova la stazione più vicina?",
        "Ieri abbiamo fatto una lunga passeggiata nel bosco e poi abbiamo mangiato una torta.",
        "Il mio ordine non è ancora arrivato, anche se l'ho pagato due settimane fa.",
        "Se nel fine settimana il tempo resta bello, andremo al lago con i bambini e ci resteremo "
        "fino alla sera.",
    ),
    "pt": (
        "Sim, por favor.",
        "Não, muito obrigado.",
        "Que horas são?",
        "Eu gostaria de marcar uma consulta para amanhã.",
        "O trem para a praia não sai hoje.",
        "Pode me dizer onde fica a estação mais próxima?",
        "Ontem fizemos um longo passeio pela floresta e depois comemos um bolo.",
        "O meu pedido ainda não chegou, mas eu paguei há duas semanas.",
        "Se o tempo ficar bom no fim de semana, vamos ao lago com as crianças e ficamos lá até a "
        "noite.",
    ),
    "nl": (
        "Ja, graag.",
        "Nee, dank u wel.",
        "Hoe laat is het?",
        "Ik wil graag een afspraak maken voor morgen.",
        "De trein naar Utrecht rijdt vandaag niet.",
        "Kunt u mij vertellen waar het dichtstbijzijnde station is?",
        "Gisteren hebben we een lange wandeling door het bos gemaakt en daarna taart gegeten.",
        "Mijn bestelling is nog niet aangekomen, terwijl ik twee weken geleden al heb betaald.",
        "Als het weer in het weekend mooi blijft, gaan we met de kinderen naar het meer en blijven "
        "we daar tot de avond.",
    ),
}
"""Language → what is said, from 1 to 11 s long."""


@dataclass(frozen=True, eq=False)
class Spoken:
    """An utterance, and what was said."""

    language: str
    """ISO 639 code."""
    voice: str
    """Who speaks."""
    text: str
    """The words."""
    audio: Audio
    """Their sound."""


def available() -> bool:
    """Whether espeak-ng is installed."""
    return shutil.which(COMMAND) is not None


def speak(voice: str, text: str) -> Audio:
    """A sentence in a voice of espeak-ng's, at 150 words a minute."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spoken.wav"
        command = [COMMAND, "-v", voice, "-s", "150", "-w", str(path), text]
        subprocess.run(command, check=True, timeout=30)
        return from_file(path)


def utterances(language: str, voices: Sequence[str] = ()) -> list[Spoken]:
    """Every sentence of a language in each of its voices, or of those given."""
    return [
        Spoken(language, voice, text, speak(voice, text))
        for voice in voices or VOICES[language]
        for text in SENTENCES[language]
    ]
