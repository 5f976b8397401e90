// Compiles a LoRA file into a small package: its matrices under the names of the base's weights, and the graphs that apply them.
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { pipeline } from 'node:stream/promises'
import packageJson from '../../../package.json' with { type: 'json' }
import { countElements } from '../../dtype.ts'
import { FACTOR_DTYPES, LORA_FORMAT, type LoraManifest, loraManifest, type Manifest } from '../../manifest.ts'
import { FAMILIES, type FamilyName } from '../../models/families.ts'
import type { LoraNames, LoraTarget } from '../../models/family.ts'
import { chooseAdditionName } from '../addition-name.ts'
import { CheckpointError, listNames, quote } from '../checkpoint/error.ts'
import { type LoraPart, parseLoraKey } from '../checkpoint/formats/lora-keys.ts'
import { closeFiles } from '../checkpoint/formats/read-tensor.ts'
import { readHeader, type SafetensorsFile, type TensorInfo } from '../checkpoint/formats/safetensors.ts'
import { addLowRank, createDenseUpdate, createFp8Update, createIntegerUpdate } from '../graph/lora-graphs.ts'
import { kernelOperators } from '../lower/kernels.ts'
import { place } from '../place.ts'
import { encodeModel } from '../write/onnx.ts'
import { PackageWriter } from '../write/package-writer.ts'
import { FactorWriter } from './factors.ts'
import { readLoraScales, refuseOtherBase } from './settings.ts'

export type LoraOptions = {
  /** A safetensors file of a trainer. */
  readonly lora: string
  /** Manifest of a package of the base. */
  readonly base: Manifest
  readonly out: string
  /** ID for requests; by default that of the file. */
  readonly name?: string | undefined
  readonly family?: FamilyName | undefined
}

/** Limit on the rank of one matrix; published ones have at most 256. */
const MAX_RANK = 4096

/**
 * Compiles a LoRA for a base into a package at `out`. Throws CheckpointError for keys that are not used, for other kinds of adapters, and for
 * shapes that do not fit the base; `out` is then unchanged.
 */
export async function compileLora(options: LoraOptions): Promise<{ manifest: LoraManifest; notes: string[] }> {
  const { lora: file, base } = options
  const name = chooseAdditionName(file, options.name)
  const header = await readHeader(file)
  refuseOtherBase(header, base)
  const names = FAMILIES[options.family ?? 'sd35'].loraNames(base)
  try {
    const { modules, notes } = joinModules(header, names, base)
    const scales = await readLoraScales(header)
    const bytes = [...header.tensors.values()].reduce((sum, info) => sum + 2 * info.bytes, 1 << 20)
    return await place(options.out, bytes, async (directory) => {
      const writer = new PackageWriter(directory)
      const factors = new FactorWriter()
      const about = modules.map((module) => factors.add(module, scales.of(module)))
      await writer.write(FACTORS, factors.bytes())
      const graphs = await writeGraphs(writer)
      const source = await sha256(file)
      const largest = Math.max(...about.map(({ rank }) => rank))
      const manifest = loraManifest.parse({
        ...{ kind: 'lora', format: LORA_FORMAT, name, variant: base.variant, tool: `octet ${packageJson.version}` },
        ...{ source, rank: largest, modules: about, factors: FACTORS, graphs, files: writer.files },
      })
      await writer.write('manifest.json', Buffer.from(`${JSON.stringify(manifest)}\n`))
      return { manifest, notes }
    })
  } finally {
    closeFiles()
  }
}

const FACTORS = 'factors.bin'

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256')
  await pipeline(createReadStream(file), hash)
  return hash.digest('hex')
}

async function writeGraphs(writer: PackageWriter): Promise<LoraManifest['graphs']> {
  const files: Record<string, Record<string, string>> = {}
  for (const factors of FACTOR_DTYPES) {
    const graphs = {
      float8e4m3fn: createFp8Update(addLowRank, factors),
      'float8e4m3fn-kernel': createFp8Update(kernelOperators.addLowRank, factors),
      'uint8-float32': createIntegerUpdate('float32', factors),
      'uint8-float16': createIntegerUpdate('float16', factors),
      ...{ float16: createDenseUpdate('float16', factors), float32: createDenseUpdate('float32', factors) },
    }
    files[factors] = {}
    for (const [dtype, graph] of Object.entries(graphs)) {
      const file = `update-${dtype}-by-${factors}.onnx`
      files[factors][dtype] = file
      await writer.write(file, encodeModel(graph, { location: '', layout: [] }, packageJson.version))
    }
  }
  return files as LoraManifest['graphs']
}

type UsedTarget = Extract<LoraTarget, { weight: string }>
/** A module of the file with its place in the base. */
export type FileModule = {
  /** Its name in the file. */
  readonly module: string
  readonly target: UsedTarget
  readonly rank: number
  readonly up: TensorInfo
  readonly down: TensorInfo
  readonly alpha: TensorInfo | undefined
}

/** Pairs the tensors of each module and checks their shapes. Throws CheckpointError with the name of the tensor. */
function joinModules(header: SafetensorsFile, names: LoraNames, base: Manifest) {
  const { file, tensors } = header
  const parts = new Map<string, Partial<Record<LoraPart, TensorInfo>>>()
  for (const [key, info] of tensors) {
    const { module, part } = parseLoraKey(file, key)
    const found = parts.get(module) ?? {}
    if (found[part]) throw new CheckpointError(file, `${quote(key)} and ${quote(found[part].name)} are one tensor`)
    found[part] = info
    parts.set(module, found)
  }
  if (parts.size === 0) throw new CheckpointError(file, 'has no tensors')
  const modules: FileModule[] = []
  const [unknown, unused]: string[][] = [[], []]
  for (const [module, { up, down, alpha }] of parts) {
    const target = names.find(module)
    const keys = [up, down, alpha].flatMap((info) => info?.name ?? [])
    if (!target) unknown!.push(...keys)
    else if (!up || !down) throw new CheckpointError(file, describeMissing(module, { up, down }))
    else if ('unused' in target) unused!.push(...keys)
    else modules.push({ module, target, up, down, alpha, rank: rankOf(file, target, up, down) })
  }
  if (unknown!.length > 0) throw new CheckpointError(file, describeUnknown(unknown!, base))
  assertDistinct(file, modules)
  if (modules.length === 0) throw new CheckpointError(file, 'has no module with an effect')
  const notes =
    unused!.length > 0 ? [`Without effect, because the text stream ends in the last block: ${listNames(unused!)}.`] : []
  return { modules, notes }
}

function describeMissing(module: string, { up, down }: { up?: TensorInfo | undefined; down?: TensorInfo | undefined }) {
  const missing = up ? 'down (A)' : down ? 'up (B)' : 'low-rank'
  return `module ${quote(module)} has no ${missing} matrix; the file is incomplete`
}

/** Names of other models, in the spellings of their trainers. */
const OTHERS: readonly (readonly [RegExp, string])[] = [
  [/single_(transformer_)?blocks|double_blocks/, 'FLUX'],
  [/(input|output|middle|down|up|mid)_blocks?_/, 'Stable Diffusion 1.5 or XL'],
  [/(down|up|mid)_blocks?\./, 'Stable Diffusion 1.5 or XL'],
]

function describeUnknown(keys: readonly string[], { model, variant, text }: Manifest): string {
  const other = OTHERS.find(([pattern]) => keys.some((key) => pattern.test(key)))
  const has = `${model} (${variant}) has no modules for ${listNames(keys)}`
  if (other) return `${has}: these are names of ${other[1]}`
  const te3 = keys.some((key) => /^(lora_te3_|text_encoder_3\.|text_encoders\.t5)/.test(key))
  return te3 && !text.encoders.some(({ name }) => name === 't5') ? `${has}: the package is without T5` : has
}

const show = ({ name, shape }: TensorInfo) => `${quote(name)} is [${shape.join(', ')}]`

/** The rank of matrices up [N, rank] and down [rank, K]; those of a convolution have more axes. */
function rankOf(file: string, { weight, shape, rows }: UsedTarget, up: TensorInfo, down: TensorInfo): number {
  const [n, k] = [rows[1] - rows[0], countElements(shape.slice(1))]
  const rank = down.shape[0] ?? 0
  if (rank < 1 || rank > MAX_RANK) throw new CheckpointError(file, `${show(down)}; its rank must be 1 to ${MAX_RANK}`)
  if (countElements(down.shape) !== rank * k)
    throw new CheckpointError(
      file,
      `${show(down)}; ${weight} requires [rank, ${shape.slice(1).join(', ')}]. The LoRA is of another model`,
    )
  if (up.shape[0] !== n || countElements(up.shape.slice(1)) !== rank)
    throw new CheckpointError(
      file,
      `${show(up)}; ${weight} requires [${n}, ${rank}] with the rank of ${quote(down.name)}`,
    )
  return rank
}

/** Throws CheckpointError if two modules update the same rows, such as one projection in two spellings. */
function assertDistinct(file: string, modules: readonly FileModule[]): void {
  const seen = new Map<string, FileModule[]>()
  for (const module of modules) {
    const { network, weight, rows } = module.target
    const others = seen.get(`${network} ${weight}`) ?? []
    const clash = others.find(({ target }) => target.rows[0] < rows[1] && rows[0] < target.rows[1])
    if (clash) throw new CheckpointError(file, `${quote(module.module)} and ${quote(clash.module)} are the same module`)
    seen.set(`${network} ${weight}`, [...others, module])
  }
}
