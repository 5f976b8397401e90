// The Python that has Modal's package: of .octet/modal, which `npm run modal:setup` makes, else the machine's own when it has it.
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import path from 'node:path'
import { ROOT } from '../local/package-cache.ts'

const VENV = path.join(ROOT, '.octet', 'modal')

/** The interpreter, or null: say then that `npm run modal:setup` is needed. */
export function modalPython(): string | null {
  const own = path.join(VENV, 'bin', 'python')
  if (existsSync(own)) return own
  try {
    execFileSync('python3', ['-c', 'import modal'], { stdio: 'ignore' })
    return 'python3'
  } catch {
    return null
  }
}

/** The command line of Modal, for the start of a command. */
export const modalCommand = (python = modalPython()) => (python ? [python, '-m', 'modal'] : ['modal'])
