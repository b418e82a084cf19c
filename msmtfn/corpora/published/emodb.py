"""EmoDB: ten actors speak ten German sentences in seven emotions.

```
<folder>/**/03a01Fa.wav      speaker, sentence, emotion, version; or .flac
```

Each speaker is the test of one fold, and the next one its validation.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Final

import pyarrow as pa

from msmtfn.corpora.published.corpus import (
    SOUND_SUFFIXES,
    TEST,
    TRAINING,
    VALIDATION,
    Conversation,
    CorpusFormatError,
    PublishedCorpus,
    Utterance,
    find_clips,
)

logger = logging.getLogger(__name__)

NAME: Final = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])([a-z])")
EMOTIONS: Final = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
SENTENCES: Final = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}
LABELS: Final = pa.schema([("emotion", pa.string())])
MIN_SPEAKERS: Final = 3
PUBLISHED: Final = {
    "utterances": 535,
    "speakers": 10,
    "utterances of anger": 127,
    "utterances of boredom": 81,
    "utterances of disgust": 46,
    "utterances of fear": 69,
    "utterances of happiness": 71,
    "utterances of sadness": 62,
    "utterances of neutral": 79,
}


def read_emodb(folder: Path) -> PublishedCorpus:
    """Read EmoDB; an utterance is a conversation of its own.

    Raises:
        CorpusFormatError: the folder has no recordings of EmoDB, or fewer than three speakers.
    """
    conversations, speakers, found = [], {}, Counter[str]()
    clips = {path.stem: path for path in find_clips(folder)}
    for name, path in sorted(clips.items()):
        match = NAME.fullmatch(name)
        if match is None or match[2] not in SENTENCES:
            logger.warning("%s is none of EmoDB's recordings and is left out", path.name)
            continue
        speaker, sentence, emotion = match[1], match[2], EMOTIONS[match[3]]
        speakers[name] = speaker
        columns = {"language": "de", "customer_id": f"speaker-{speaker}", "emotion": emotion}
        conversations.append(Conversation(name, [Utterance(name, path, SENTENCES[sentence])], columns))
        found.update({"utterances": 1, f"utterances of {emotion}": 1})
    names = sorted(set(speakers.values()))
    if len(names) < MIN_SPEAKERS:
        kinds = " or ".join(SOUND_SUFFIXES[:2])
        raise CorpusFormatError(
            f"{folder} has recordings of {len(names)} speakers, such as 03a01Fa{kinds}; it takes {MIN_SPEAKERS} or more"
        )
    return PublishedCorpus(
        title="EmoDB",
        conversations=conversations,
        labels=LABELS,
        folds={
            f"speaker-{name}": {
                call_id: _split(speaker, name, names[(place + 1) % len(names)]) for call_id, speaker in speakers.items()
            }
            for place, name in enumerate(names)
        },
        found=found | Counter({"speakers": len(names)}),
        published=PUBLISHED,
    )


def _split(speaker: str, test: str, validation: str) -> str:
    return {test: TEST, validation: VALIDATION}.get(speaker, TRAINING)
