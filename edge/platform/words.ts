// Text as words, for comparisons that ignore case, accents, width and invisible characters.

const INVISIBLE = /[\p{M}\p{Cf}\p{Default_Ignorable_Code_Point}]/gu
const BETWEEN_WORDS = /[^\p{L}\p{N}]+/gu
/** Scripts that are written without spaces between words. */
const UNSPACED = /[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmr}\p{sc=Mymr}]/u

/** The words of a text (Unicode NFKD, lower case, without marks), separated and enclosed by single spaces; empty if there are none. */
export function wordsOf(text: string): string {
  const plain = text.normalize('NFKD').replace(INVISIBLE, '').toUpperCase().toLowerCase().normalize('NFKD')
  const words = plain.replace(INVISIBLE, '').replace(BETWEEN_WORDS, ' ').trim()
  return words === '' ? '' : ` ${words} `
}

/** Whether `words` contain a phrase, both from `wordsOf`: as whole words, or anywhere in scripts without spaces. */
export const containsPhrase = (words: string, phrase: string): boolean =>
  words.includes(UNSPACED.test(phrase) ? phrase.trim() : phrase)
