"""Guessing what a model is about to write, so that it reads several tokens at once.

With one token at a time nearly all the time goes into reading the weights; some more rows cost little more.
A model that reads neighbours copies from them, so what followed the last tokens in a neighbour, or earlier in
the text itself, is often what it writes next. The guess is checked by the model's own choice, token by token,
and nothing of it is kept beyond the first that differs: but for rounding, where two tokens are all but
equally likely, the text is the one that the model writes token by token (speculative decoding, Leviathan et
al. 2023, arXiv 2211.17192; the retrieved text as the draft as in REST, He et al. 2023, arXiv 2311.08252,
but without a lookup of its own: RETRO has made it already).
"""

from collections.abc import Iterable, Sequence

_RUN = 2  # tokens that must agree before the next ones are guessed
_LONGEST_RUN = 16  # agreement beyond this tells no two places apart


class Drafter:
    """Guesses from what was read.

    most    tokens guessed at once; fewer while guesses fail: what was right last time and one more
    hidden  a token that is never guessed, and ends a guess: padding
    """

    def __init__(self, most: int, hidden: int):
        self.most = self.size = most
        self.hidden = hidden
        self._texts: list[list[int]] = []
        self._ends: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # of a run: (text, position after it)
        self._own = self._new_text()

    def learn(self, texts: Iterable[Sequence[int]]) -> None:
        """Neighbours, the nearest first."""
        for text in texts:
            number = self._new_text()
            for token in text:
                self._add(number, token)

    def guess(self, tokens: Sequence[int], room: int) -> list[int]:
        """What may follow `tokens`, the text so far: at most `room` tokens, and often none. Where several
        places end like the text, the one that agrees longest, of these what came last."""
        if not self.most:
            return []
        own = self._texts[self._own]
        for token in tokens[len(own) :]:
            self._add(self._own, token)
        room = min(room, self.size)
        best, longest = None, 0
        for number, after in self._ends.get(tuple(own[-_RUN:]), ()) if room > 0 else ():
            text = self._texts[number]
            if after == len(text) or text[after] == self.hidden:
                continue
            agree = _RUN
            while agree < min(_LONGEST_RUN, after, len(own)) and text[after - agree - 1] == own[-agree - 1]:
                agree += 1
            if agree >= longest:
                best, longest = (text, after), agree
        if best is None:
            return []
        text, after = best
        guessed = text[after : after + room]
        return guessed[: guessed.index(self.hidden)] if self.hidden in guessed else guessed

    def judge(self, guessed: int, right: int) -> None:
        """So many were guessed and so many of them right."""
        self.size = min(self.most, 2 * self.size if right == guessed else right + 1)

    def _new_text(self) -> int:
        self._texts.append([])
        return len(self._texts) - 1

    def _add(self, number: int, token: int) -> None:
        text = self._texts[number]
        text.append(token)
        if len(text) >= _RUN and self.hidden not in text[-_RUN:]:
            self._ends.setdefault(tuple(text[-_RUN:]), []).append((number, len(text)))
