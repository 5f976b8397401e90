"""Reads the nouns of WordNet 3.0 (Debian's wordnet-base): synonyms, hypernyms and hyponyms of a sense."""

from collections import defaultdict
from dataclasses import dataclass, field

from .drawing import ROOT

FOLDER = ROOT / "usr/share/wordnet"


@dataclass
class Sense:
    lemmas: list[str]
    domain: int  # number of the lexicographer's file: 5 animal, 6 artifact, 13 food, 17 object, 18 person, 20 plant …
    hypernyms: list[int] = field(default_factory=list)
    hyponyms: list[int] = field(default_factory=list)


class Nouns:
    """Senses by their offset in data.noun; `senses(word)` has the most frequent first."""

    def __init__(self):
        self.at: dict[int, Sense] = {}
        for line in self.lines("data.noun"):
            head = line.split(" | ")[0].split()
            count = int(head[3], 16)
            lemmas = [lemma.replace("_", " ") for lemma in head[4 : 4 + 2 * count : 2]]
            pointers = head[5 + 2 * count :]
            sense = Sense(lemmas, int(head[1]))
            for i in range(0, 4 * int(head[4 + 2 * count]), 4):
                symbol, offset, part = pointers[i], int(pointers[i + 1]), pointers[i + 2]
                if part == "n" and symbol == "@":
                    sense.hypernyms.append(offset)
                elif part == "n" and symbol == "~":
                    sense.hyponyms.append(offset)
            self.at[int(head[0])] = sense
        self.index: dict[str, list[int]] = {}
        for line in self.lines("index.noun"):
            parts = line.split()
            self.index[parts[0].replace("_", " ")] = [int(offset) for offset in parts[-int(parts[2]) :]]
        self.frequency = defaultdict(int)  # how often a lemma was tagged as a noun of a domain
        for line in self.lines("cntlist.rev"):
            key, _, count = line.split()
            lemma, rest = key.split("%")
            if rest.startswith("1:"):
                self.frequency[lemma.replace("_", " "), int(rest.split(":")[1])] += int(count)

    def lines(self, name: str) -> list[str]:
        return [line for line in (FOLDER / name).read_text(encoding="utf-8").splitlines() if not line.startswith("  ")]

    def senses(self, word: str) -> list[int]:
        return self.index.get(word.lower(), [])

    def ancestors(self, offset: int) -> set[int]:
        found, todo = set(), [offset]
        while todo:
            for above in self.at[todo.pop()].hypernyms:
                if above not in found:
                    found.add(above)
                    todo.append(above)
        return found
