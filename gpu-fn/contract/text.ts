/**
 * Characters that a terminal would interpret or not display: controls, formats such as bidirectional marks, separators, lone surrogates.
 */
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu

/**
 * Escapes untrusted text for errors, logs and terminals: invisible characters become `\uXXXX`. Within JSON, the escaped text is valid and
 * has the same value.
 */
export const escapeText = (text: string): string =>
  text.replace(INVISIBLE, (character) =>
    character.replace(/[\s\S]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`),
  )
