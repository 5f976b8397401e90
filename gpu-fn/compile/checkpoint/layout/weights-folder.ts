// The weights files of one folder: a file, an index with its shards, or shards without an index, each in one or several variants.
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { CheckpointError, listNames, quote } from '../error.ts'
import { readHeader, type SafetensorsFile } from '../formats/safetensors.ts'
import { readSharded, readShards, shardsOf } from './shards.ts'

type FolderWeights = SafetensorsFile & {
  /** The part of the file names that distinguishes variants; empty for full precision. */
  variant: string
  /** The reason for skipping the preceding variants. */
  passed: readonly string[]
}

/** The files of one variant; `incomplete` is the reason why they cannot be read. */
type Candidate = { variant: string; read(): Promise<SafetensorsFile>; incomplete: string | null }
/** `counts`: the total numbers of shards, according to the names of the shards. */
type FoundFiles = { file?: string; index?: string; shards: Map<number, string>; counts: Set<number> }

/** The stems of weights files of diffusers and transformers. */
const STEMS = ['diffusion_pytorch_model', 'model']
/** The variants with a known precision, best first; the empty one has full precision. */
const PREFERENCE = ['', 'fp32', 'bf16', 'fp16']

const FILE = /^(?:\.([\w-]+?))?(?:-(\d{5})-of-(\d{5}))?(?:\.([\w-]+))?\.safetensors$/i
const INDEX = /^(?:\.([\w-]+))?\.safetensors\.index(?:\.([\w-]+))?\.json$/i

/** Whether a folder has files that `readWeights` reads. */
export async function hasWeights(folder: string): Promise<boolean> {
  return groupByVariant(await readdir(folder), STEMS).size > 0
}

/**
 * Opens the weights of a folder: the complete variant of the highest precision, full precision first. `stem` is preferred. Throws
 * CheckpointError if none is complete, and if the choice is between several variants of unknown names.
 */
export async function readWeights(folder: string, stem?: string): Promise<FolderWeights> {
  const names = (await readdir(folder)).toSorted()
  const preferred = stem ? groupByVariant(names, [stem]) : new Map<string, FoundFiles>()
  const groups = preferred.size > 0 ? preferred : groupByVariant(names, STEMS)
  const candidates = await Promise.all([...groups].map(([variant, found]) => candidateOf(folder, variant, found)))
  const ranked = candidates.toSorted((a, b) => rankOf(a) - rankOf(b))
  const complete = ranked.filter(({ incomplete }) => incomplete === null)
  const [chosen, second] = complete
  if (!chosen) throw new CheckpointError(folder, problemOf(names, ranked, stem ?? STEMS[0]!))
  if (second && rankOf(chosen) === PREFERENCE.length) {
    const variants = complete.map(({ variant }) => variant)
    const problem = `has the variants ${listNames(variants)} and none of full precision; give the files of one variant`
    throw new CheckpointError(folder, problem)
  }
  const passed = ranked.slice(0, ranked.indexOf(chosen)).flatMap(({ incomplete }) => incomplete ?? [])
  return { ...(await chosen.read()), variant: chosen.variant, passed }
}

function groupByVariant(names: readonly string[], stems: readonly string[]): Map<string, FoundFiles> {
  const groups = new Map<string, FoundFiles>()
  for (const name of names) {
    const stem = stems.find((candidate) => name.startsWith(candidate))
    if (stem === undefined) continue
    const rest = name.slice(stem.length)
    const [file, early, number, count, late] = FILE.exec(rest) ?? []
    const [index, before, after] = file === undefined ? (INDEX.exec(rest) ?? []) : []
    if (file === undefined && index === undefined) continue
    const variant = early ?? late ?? before ?? after ?? ''
    const found = groups.get(variant) ?? { shards: new Map<number, string>(), counts: new Set<number>() }
    groups.set(variant, found)
    if (index !== undefined) found.index = name
    else if (number === undefined) found.file = name
    else {
      found.shards.set(Number(number), name)
      found.counts.add(Number(count))
    }
  }
  return groups
}

async function candidateOf(folder: string, variant: string, found: FoundFiles): Promise<Candidate> {
  const resolvePath = (name: string) => path.join(folder, name)
  const { file, index, shards, counts } = found
  if (file) return { variant, read: () => readOnlyFile(folder, file, found), incomplete: null }
  if (index) {
    const present = new Set(await readdir(folder))
    const absent = [...(await shardsOf(resolvePath(index)))].filter((shard) => !present.has(shard))
    const incomplete = absent.length > 0 ? `${quote(index)} lists ${listNames(absent)}, which are missing` : null
    if (!incomplete || counts.size === 0) return { variant, read: () => readSharded(resolvePath(index)), incomplete }
  }
  const files = [...shards].toSorted(([a], [b]) => a - b).map(([, name]) => name)
  const problem = problemOfShards(shards, [...counts])
  return {
    variant,
    read: () => readShards(files.map(resolvePath)),
    incomplete: problem && `${quote(files[0]!)} is a shard ${problem}`,
  }
}

/** diffusers would read the shards beside a file, transformers the file. */
async function readOnlyFile(folder: string, file: string, { shards, counts }: FoundFiles): Promise<SafetensorsFile> {
  if (shards.size === 0 || problemOfShards(shards, [...counts])) return readHeader(path.join(folder, file))
  const names = listNames([...shards.values()])
  throw new CheckpointError(
    folder,
    `has the same weights twice, as ${quote(file)} and as ${names}; delete the outdated ones`,
  )
}

function problemOfShards(shards: ReadonlyMap<number, string>, [count, other]: readonly number[]): string | null {
  if (other !== undefined) return `of ${count}, and there are shards of ${other}`
  const absent = Array.from({ length: count! }, (_, i) => i + 1).filter((number) => !shards.has(number))
  return absent.length > 0 ? `of ${count}, of which these are missing: ${absent.slice(0, 5).join(', ')}` : null
}

function rankOf({ variant }: Candidate): number {
  const rank = PREFERENCE.indexOf(variant.toLowerCase())
  return rank < 0 ? PREFERENCE.length : rank
}

function problemOf(names: readonly string[], candidates: readonly Candidate[], stem: string): string {
  if (candidates.length > 0)
    return `its weights are incomplete: ${candidates.map(({ incomplete }) => incomplete).join('; ')}`
  const others = names.length > 0 ? `it has ${listNames(names)}` : 'it is empty'
  return `has no weights: none of ${stem}.safetensors, its index and its variants exists; ${others}`
}
