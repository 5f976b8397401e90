import { describe, test } from 'vitest'
import { containsPhrase, wordsOf } from '../../../edge/platform/words.ts'

const contains = (text: string, phrase: string) => containsPhrase(wordsOf(text), wordsOf(phrase))

test.for([
  ['Hello,  World!', ' hello world '],
  ['Ｆｕｌｌｗｉｄｔｈ ﬁne', ' fullwidth fine '],
  ['Crème BRÛLÉE', ' creme brulee '],
  ['c\u0327a', ' ca '],
  ['zero\u200bwidth so\u00adft \u{e0041}tags', ' zerowidth soft tags '],
  ['Straße STRASSE', ' strasse strasse '],
  ['ΟΔΟΣ οδός', ' οδος οδος '],
  [' \u2800!?', ''],
] as const)('the words of %j are %j', ([text, words], { expect }) => {
  expect(wordsOf(text)).toBe(words)
})

describe('a phrase', () => {
  test.for([
    ['a bad-word here', 'Bad word'],
    ['BÁD\u200b WÖRD', 'bad word'],
    ['bad', 'bad'],
    ['这是一只猫在睡觉', '猫'],
    ['𝐛𝐚𝐝 things', 'bad'],
  ] as const)('%j contains %j', ([text, phrase], { expect }) => expect(contains(text, phrase)).toBe(true))

  test.for([
    ['a badword', 'bad word'],
    ['badge', 'bad'],
    ['bad big word', 'bad word'],
    ['', 'bad'],
  ] as const)('%j does not contain %j', ([text, phrase], { expect }) => expect(contains(text, phrase)).toBe(false))
})
