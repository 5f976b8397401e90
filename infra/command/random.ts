// Reproducible random numbers: the same seed and name produce the same sequence.

export type Random = {
  /** A number in [0, 1). */
  next: () => number
  /** A whole number from `min` to `max`, both included. */
  between: (min: number, max: number) => number
  chance: (probability: number) => boolean
  /** A key of the table, with a probability proportional to its weight. */
  pick: <Key extends string>(weights: Readonly<Record<Key, number>>) => Key
}

const hash = (text: string) =>
  [...text].reduce((sum, letter) => Math.imul(sum ^ letter.charCodeAt(0), 16777619), 2166136261)

/** An independent sequence for each name, so that the parts of a program do not affect each other. The generator is mulberry32. */
export function randomOf(seed: number, name: string): Random {
  let state = hash(`${seed}/${name}`)
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  return {
    next,
    between: (min, max) => min + Math.floor(next() * (max - min + 1)),
    chance: (probability) => next() < probability,
    pick<Key extends string>(weights: Readonly<Record<Key, number>>): Key {
      const table = Object.entries(weights) as [Key, number][]
      let left = next() * table.reduce((sum, [, weight]) => sum + weight, 0)
      for (const [key, weight] of table) {
        left -= weight
        if (left < 0) return key
      }
      return table.at(-1)![0]
    },
  }
}
