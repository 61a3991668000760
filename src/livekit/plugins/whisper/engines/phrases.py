"""What Whisper writes where nobody speaks: the ends of the films and talks that it learned from.

People say some of it as well: see `quality.not_speech` for when it is dropped. Of those that are
reported again and again (openai/whisper, discussions 679 and 928; Koenecke et al., Careless
Whisper, 2024), and of those seen here in noise, music and breath.
"""

# ruff: noqa: RUF001 (letters of other scripts)

from __future__ import annotations


def letters_of(text: str) -> str:
    """Its letters and digits alone, in small."""
    return "".join(filter(str.isalnum, text.casefold()))


def _lines(texts: str) -> frozenset[str]:
    return frozenset(letters_of(text) for text in texts.split("\n") if text)


COMMON = _lines("""
you
bye
bye bye
thank you
thank you very much
thank you so much
thanks
thank you for listening
thanks for listening
see you next time
im sorry
im going to go
okay
oh
so
the end
silence
music
applause
vielen dank
tschüss
merci
gracias
obrigado
grazie
bedankt
dziękuję
ありがとうございました
おやすみなさい
谢谢大家
""")
"""What people say to an agent as well."""

CREDITS = _lines("""
thank you for watching
thanks for watching
thank you so much for watching
thanks for watching and ill see you in the next video
please subscribe
please subscribe to my channel
subscribe
dont forget to like and subscribe
see you in the next video
ill see you in the next video
subtitles by the amara org community
transcription by castingwords
copyright wdr 2021
untertitel der amara org community
untertitel im auftrag des zdf für funk 2017
untertitelung des zdf 2020
vielen dank fürs zuschauen
sous titres réalisés par la communauté d amara org
sous titres réalisés para la communauté d amara org
sous titrage st 501
merci d avoir regardé cette vidéo
subtítulos realizados por la comunidad de amara org
subtítulos por la comunidad de amara org
gracias por ver el video
gracias por ver
legendas pela comunidade amara org
obrigado por assistir
sottotitoli creati dalla comunità amara org
sottotitoli e revisione a cura di qtss
grazie per la visione
ondertitels ingediend door de amara org gemeenschap
ondertiteling door de amara org gemeenschap
bedankt voor het kijken
napisy stworzone przez społeczność amara org
dziękuję za uwagę
tekstning av nicolai winther
undertexter från amara org gemenskapen
продолжение следует
субтитры сделал dimatorzok
субтитры создавал dimatorzok
редактор субтитров а семкин корректор а егорова
спасибо за просмотр
altyazı m k
izlediğiniz için teşekkür ederim
ご視聴ありがとうございました
시청해주셔서 감사합니다
mbc 뉴스 이덕영입니다
구독과 좋아요 부탁드립니다
谢谢观看
请不吝点赞 订阅 转发 打赏支持明镜与点点栏目
字幕由amara org社区提供
字幕志愿者 杨茜茜
字幕志願者 李宗盛
中文字幕志愿者 杨茜茜
ترجمة نانسي قنقر
اشتركوا في القناة
""")
"""What hardly anybody says to one."""
