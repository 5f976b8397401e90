// The Python with Modal's package: that of .octet/modal, created by `npm run modal:setup`, or else the system's.
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { ROOT } from '../local/models/package-cache.ts'

const VENV = path.join(ROOT, '.octet', 'modal')

/** The interpreter; null if neither has the package, which `npm run modal:setup` installs. */
export function findModalPython(): string | null {
  const own = path.join(VENV, 'bin', 'python')
  if (existsSync(own)) return own
  try {
    execFileSync('python3', ['-c', 'import modal'], { stdio: 'ignore' })
    return 'python3'
  } catch {
    return null
  }
}

/** The first words of a Modal command line. */
export const findModalCommand = (python = findModalPython()) => (python ? [python, '-m', 'modal'] : ['modal'])
