// Program: verifies the packages of a mounted directory, and prints digests and warnings.
import { pino } from 'pino'
import { packageSource } from '../../../gpu-fn/weights/package-source.ts'
import { findPackages } from '../../../gpu-fn/weights/packages.ts'
import { Verifier } from '../../../gpu-fn/weights/verification.ts'

const [packages, cache] = process.argv.slice(2) as [string, string]
const log = pino({ level: 'warn' }, { write: (line) => console.log(`warning: ${JSON.parse(line).msg}`) })
const verifier = new Verifier({ directory: cache, log })
const source = packageSource({ packages, bucket: null, cache }, verifier, log)
for (const pkg of await findPackages(source.packages)) {
  await verifier.verify(pkg)
  console.log(pkg.digest)
}
