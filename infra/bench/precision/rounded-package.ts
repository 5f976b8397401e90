// Copies a float32 package with weights rounded to other formats. The CPU target dequantizes stored weights to float32, so the copy is
// equivalent to a package in these formats.
import { cp, open } from 'node:fs/promises'
import path from 'node:path'
import { computeTensorBytes } from '../../../gpu-fn/dtype.ts'
import type { NetworkName, StoredTensor } from '../../../gpu-fn/manifest.ts'
import { openPackage } from '../../../gpu-fn/weights/packages.ts'
import type { Rounding } from './roundings.ts'

/** The rounding of a tensor of a network, or null to keep its values. */
export type Choose = (network: NetworkName, tensor: StoredTensor) => Rounding | null

/** Copies the float32 package in `directory` to `out`, and rounds the weights selected by `choose`. */
export async function roundPackage(directory: string, out: string, choose: Choose): Promise<string> {
  await cp(directory, out, { recursive: true })
  const { manifest } = await openPackage(directory)
  for (const [name, layout] of Object.entries(manifest.weights)) {
    const network = path.parse(name).name as NetworkName
    await using file = await open(path.join(out, name), 'r+')
    for (const tensor of layout) {
      const rounding = tensor.dtype === 'float32' ? choose(network, tensor) : null
      if (!rounding) continue
      const bytes = new Uint8Array(computeTensorBytes(tensor.dtype, tensor.shape))
      await file.read(bytes, 0, bytes.length, tensor.offset)
      const values = new Float32Array(bytes.buffer)
      rounding(values, tensor.shape[0]!, values.length / tensor.shape[0]!)
      await file.write(bytes, 0, bytes.length, tensor.offset)
    }
  }
  return out
}
