// Compiles a ControlNet into a package of its own, which guides all packages of its shape.
import path from 'node:path'
import packageJson from '../../package.json' with { type: 'json' }
import { escapeText } from '../contract.ts'
import {
  CONTROL_TYPES,
  CONTROLNET_FORMAT,
  type ControlnetManifest,
  type ControlType,
  controlnetManifest,
  type Target,
} from '../manifest.ts'
import { FAMILIES, type FamilyName } from '../models/families.ts'
import { CONTROL_TYPE } from '../models/sd35/names/controlnet-names.ts'
import { chooseAdditionName } from './addition-name.ts'
import { CheckpointError, quote } from './checkpoint/error.ts'
import { closeFiles, readBytes } from './checkpoint/formats/read-tensor.ts'
import { readHeader } from './checkpoint/formats/safetensors.ts'
import { assertTarget } from './compile.ts'
import type { BuildOptions } from './graph/model.ts'
import { chooseLowerings } from './lower/lowerings.ts'
import { place } from './place.ts'
import { createWeightsFile, PackageWriter, type Progress } from './write/package-writer.ts'
import { sumLayoutBytes } from './write/weights.ts'

export type ControlnetOptions = Pick<BuildOptions, 'tier'> & {
  /** A diffusers directory, or Stability's file. */
  readonly controlnet: string
  readonly out: string
  readonly target: Target
  /** ID for requests; by default that of the file or directory. */
  readonly name?: string | undefined
  /** By default that of Stability's file, or the one in the name of the file or directory. */
  readonly type?: ControlType | undefined
  readonly family?: FamilyName | undefined
  readonly onProgress?: Progress | undefined
}

type CompiledControlnet = { readonly manifest: ControlnetManifest; readonly notes: readonly string[] }

/** Compiles a ControlNet into a package at `out`. Throws CheckpointError and then leaves `out` as it was. */
export async function compileControlnet(options: ControlnetOptions): Promise<CompiledControlnet> {
  const { controlnet: given, tier, target, out } = options
  assertTarget(tier, target)
  const name = chooseAdditionName(given, options.name)
  const { openControlnet, buildControlnet } = FAMILIES[options.family ?? 'sd35']
  const checkpoint = await openControlnet(given)
  const { type, note } = await typeOf(given, options.type)
  const { graphs, withoutKernels, shape } = buildControlnet(checkpoint, [given], { tier }, chooseLowerings(target))
  const networks = Object.entries(graphs).map(([network, graph]) => ({
    ...{ network, graph, file: createWeightsFile(`${network}.weights`, network, graph.weights) },
  }))
  const bytes = networks.reduce((sum, { file }) => sum + sumLayoutBytes(file.layout), 0)
  const manifest = await place(out, bytes, async (directory) => {
    const writer = new PackageWriter(directory)
    const files = networks.map(({ file }) => file)
    const { source } = await writer.writeWeights(files, options.onProgress)
    const about: Record<string, unknown> = {}
    for (const { network, graph, file } of networks)
      about[network] = await writer.writeGraph(`${network}.onnx`, graph, file)
    const [, control] = networks
    const substitute =
      withoutKernels && (await writer.writeWithoutKernels('control', withoutKernels, control!.graph, control!.file))
    const manifest = controlnetManifest.parse({
      ...{ kind: 'controlnet', format: CONTROLNET_FORMAT, name, type, tier, target },
      ...{ tool: `octet ${packageJson.version}`, source, shape, networks: about },
      ...(substitute && { without_kernels: { control: substitute } }),
      weights: Object.fromEntries(files.map((file) => [file.name, file.layout])),
      files: writer.files,
    })
    await writer.write('manifest.json', Buffer.from(`${JSON.stringify(manifest)}\n`))
    return manifest
  })
  return { manifest, notes: [...checkpoint.notes, ...(note ? [note] : [])].map(escapeText) }
}

/** The type, with a note on its source unless the caller gave it. */
async function typeOf(given: string, type: ControlType | undefined): Promise<{ type: ControlType; note?: string }> {
  const stored = await readType(given)
  if (type && stored && type !== stored)
    throw new CheckpointError('--control-type', `${type} is given, but ${given} states that it is ${stored}`)
  if (type) return { type }
  if (stored) return { type: stored, note: `Type ${stored}: stated by the file.` }
  const name = path.basename(path.resolve(given))
  const named = CONTROL_TYPES.filter((each) => each !== 'other' && name.toLowerCase().includes(each))
  if (named.length === 1) return { type: named[0]!, note: `Type ${named[0]}: the name ${quote(name)} contains it.` }
  throw new CheckpointError(
    given,
    `does not state its type, and its name is not clear; give --control-type ${CONTROL_TYPES.join(', ')}`,
  )
}

const INTEGERS: Readonly<Record<string, number>> = { U8: 1, I8: 1, I32: 4, I64: 8 }

/** The type stored in one of Stability's files; undefined for other files and directories. */
async function readType(given: string): Promise<ControlType | undefined> {
  if (!/\.safetensors$/i.test(given)) return undefined
  const info = (await readHeader(given)).tensors.get(CONTROL_TYPE)
  if (!info) return undefined
  const width = INTEGERS[info.dtype]
  try {
    const value = width === info.bytes ? readBytes(info)[0] : undefined
    // The highest index is that of "other", which files do not state.
    const type = value === undefined ? undefined : CONTROL_TYPES.slice(0, -1)[value]
    if (type) return type
    throw new CheckpointError(given, `tensor ${quote(CONTROL_TYPE)} must be an integer: 0 blur, 1 canny, 2 depth`)
  } finally {
    closeFiles()
  }
}
