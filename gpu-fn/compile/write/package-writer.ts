// Writes the files of a package and records their sizes and digests.
import { createHash } from 'node:crypto'
import fs from 'node:fs/promises'
import path from 'node:path'
import packageJson from '../../../package.json' with { type: 'json' }
import type { Manifest, StoredTensor } from '../../manifest.ts'
import type { Tensor } from '../checkpoint/tensor.ts'
import { type Graph, GraphError, type Weight } from '../graph/graph.ts'
import type { WeightSource } from '../graph/weight-source.ts'
import type { ConvertedBlock } from './convert.ts'
import { encodeModel } from './onnx.ts'
import { layOut, startConverter, writeWeights } from './weights.ts'

/** A weights file to be written; `network` appears in progress reports. */
export type WeightsFile = {
  readonly name: string
  readonly network: string
  readonly weights: readonly Weight[]
  readonly layout: readonly StoredTensor[]
}

export type Progress = (doneBytes: number, totalBytes: number, network: string) => void

type WrittenWeights = {
  /** SHA-256 of the checkpoint's tensors. */
  readonly source: string
  readonly sourceBytes: number
  /** The matrices that have a block of zeros. */
  readonly blank: ReadonlySet<Tensor>
}

export function createWeightsFile(name: string, network: string, weights: readonly Weight[]): WeightsFile {
  return { name, network, weights, layout: layOut(weights) }
}

export class PackageWriter {
  readonly files: Manifest['files'] = {}
  readonly #directory: string

  constructor(directory: string) {
    this.#directory = directory
  }

  async write(name: string, data: Uint8Array): Promise<void> {
    const file = path.join(this.#directory, name)
    await fs.mkdir(path.dirname(file), { recursive: true })
    await fs.writeFile(file, data, { flag: 'wx', flush: true })
    this.files[name] = { bytes: data.byteLength, sha256: createHash('sha256').update(data).digest('hex') }
  }

  /** Writes a graph over a weights file and returns its entry in the manifest. */
  async writeGraph(
    file: string,
    graph: Graph,
    { name: weights, layout }: WeightsFile,
  ): Promise<Manifest['networks'][string]> {
    await this.write(file, encodeModel(graph, { location: weights, layout }, packageJson.version))
    const { inputs, outputs } = graph
    return { file, weights, inputs: inputs.map(portOf), outputs: outputs.map(portOf) }
  }

  /** Writes `substitute`, the graph of a network for GPUs without support for our kernels, with the weights file of `graph`. */
  writeWithoutKernels(network: string, substitute: Graph, graph: Graph, weights: WeightsFile) {
    assertSameWeights(substitute, graph)
    return this.writeGraph(`${network}-without-kernels.onnx`, substitute, weights)
  }

  /** Converts and writes the weights of all files. Throws CheckpointError. */
  async writeWeights(files: readonly WeightsFile[], onProgress?: Progress): Promise<WrittenWeights> {
    const source = createHash('sha256')
    const sourceBytes = files.flatMap(({ weights }) => weights).reduce((sum, weight) => sum + sourceBytesOf(weight), 0)
    const blank = new Set<Tensor>()
    let done = 0
    const converter = startConverter()
    try {
      for (const { name, network, weights, layout } of files) {
        const onBlock = (block: ConvertedBlock, tensor: Tensor) => {
          done += block.sourceBytes
          if (block.blank && tensor.shape.length > 1) blank.add(tensor)
          onProgress?.(done, sourceBytes, network)
        }
        const file = path.join(this.#directory, name)
        this.files[name] = await writeWeights(file, weights, layout, { converter, source, onBlock })
      }
    } finally {
      await converter.close()
    }
    return { source: source.digest('hex'), sourceBytes, blank }
  }
}

/** Both graphs of a network share one weights file and its layout. */
function assertSameWeights(a: Graph, b: Graph): void {
  const describe = ({ weights }: Graph) =>
    JSON.stringify(weights.map(({ name, dtype, shape }) => [name, dtype, shape]).sort())
  if (describe(a) !== describe(b)) throw new GraphError(`the graphs of ${b.name} have different weights`)
}

const portOf = ({ name, dtype, shape }: Graph['inputs'][number]) => ({ name, dtype, shape: [...shape] })

/** Number of source bytes of a weight in the checkpoint. */
function sourceBytesOf({ source }: Weight): number {
  const from = source as WeightSource
  if (!('tensor' in from)) return 0
  const bytes = from.tensor.parts.reduce((sum, part) => sum + part.bytes, 0)
  return (bytes * (from.rows[1] - from.rows[0])) / (from.tensor.shape[0] ?? 1)
}
