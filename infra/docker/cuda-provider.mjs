// Adds onnxruntime's CUDA 13 provider to onnxruntime-node, whose installer supports CUDA 12 only. Both must be of the same release, which
// onnxruntime does not check when it loads the provider. The argument is the directory of onnxruntime-node.
import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'

/** A package with Microsoft's Linux build of the release below. */
const PROVIDER = 'com.github.asus4.onnxruntime.linux-x64-gpu@0.4.9'
const SHA512 = 'FopIhNE/Ng+v2X65wVc9clPCBCvhvA53Hxo2U0Kf5fGdVsC7iCA+mZ0KLWggcQAj7TIZ6pNidR4AC10g74Xo6w=='
const RELEASE = '1.29.0'
const FILES = ['libonnxruntime_providers_cuda.so', 'libonnxruntime_providers_shared.so']

const [target] = process.argv.slice(2)
if (!target) throw new Error('the argument must be the directory of onnxruntime-node')
const { version } = JSON.parse(readFileSync(path.join(target, 'package.json'), 'utf8'))
if (version !== RELEASE) throw new Error(`onnxruntime-node is ${version}; the provider here is of ${RELEASE}`)

const scratch = mkdtempSync(path.join(tmpdir(), 'provider-'))
const [{ filename }] = JSON.parse(
  execFileSync('npm', ['pack', '--json', PROVIDER], { cwd: scratch, encoding: 'utf8', maxBuffer: 1e8 }),
)
const tarball = path.join(scratch, filename)
const digest = createHash('sha512').update(readFileSync(tarball)).digest('base64')
if (digest !== SHA512) throw new Error(`${PROVIDER} has the SHA-512 ${digest}, not ${SHA512}`)
execFileSync('tar', ['xzf', tarball], { cwd: scratch })
for (const file of FILES)
  copyFileSync(path.join(scratch, 'package/Plugins/Linux/x64', file), path.join(target, 'bin/napi-v6/linux/x64', file))
rmSync(scratch, { recursive: true })
console.log(`${FILES.join(' and ')} of onnxruntime ${RELEASE} are in place`)
